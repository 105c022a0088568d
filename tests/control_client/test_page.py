"""The commands of docs/pools.md print what stands below them, and the page has every command and no unknown option."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import typer.main

from greenroom.cli import pool, session
from greenroom.testing.engines import skipping_without
from greenroom.testing.server import serving

from .arm import serving_arm

PAGE = (Path(__file__).parents[2] / "docs/pools.md").read_text()


def commands() -> Iterator[tuple[str, str]]:
    """Each command of the blocks that are executed, and what it is to print; `…` stands for anything."""
    for block in re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            yield command, expected


@contextmanager
def _recorded() -> Generator[str, None, None]:
    """A server that answers as Azure does, whose pools are one that runs code."""
    with ExitStack() as stack:
        arm = stack.enter_context(serving_arm())
        with skipping_without("bubblewrap:"):
            arm.endpoint = stack.enter_context(serving("bubblewrap:", ready_session_instances=0, preload=()))
        declared = arm.add(
            "default",
            "greenroom",
            containerType="PythonLTS",
            scaleConfiguration={"maxConcurrentSessions": 100, "readySessionInstances": 1},
            dynamicPoolConfiguration={"lifecycleConfiguration": {"cooldownPeriodInSeconds": 300}},
        )
        declared["properties"]["provisioningState"] = "Succeeded"
        declared["tags"] = {"greenroom:declared": "true"}
        yield arm.url


@contextmanager
def _own(directory: Path) -> Generator[str, None, None]:
    """A `greenroom serve` with a control plane."""
    with skipping_without("bubblewrap:"), serving("bubblewrap:", ready_session_instances=0, preload=()):
        pass
    environment = {**os.environ, "HOME": str(directory), "XDG_DATA_HOME": str(directory / "data")}
    command = [sys.executable, "-m", "greenroom", "serve", "--port", "0"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            url = ""
            for line in process.stderr:
                if line.startswith("Serving"):
                    url = line.split()[-1]
                    break
            yield url
        finally:
            process.terminate()


def has_control_plane(url: str) -> bool:
    listed = subprocess.run(
        [sys.executable, "-m", "greenroom", "pool", "list", "--server", url],
        capture_output=True,
        timeout=100,
        check=False,
    )
    return listed.returncode == 0


def test_each_command_prints_the_output_shown_below_it(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "greenroom"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m greenroom "$@"\n')
    program.chmod(0o755)
    with ExitStack() as stack:
        url = stack.enter_context(_own(tmp_path))
        if not has_control_plane(url):  # a server without one runs sessions alone
            url = stack.enter_context(_recorded())
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GREENROOM_")}
        environment = {**kept, "PATH": f"{program.parent}:{os.environ['PATH']}", "GREENROOM_SERVER": url}
        for command, expected in commands():
            ran = subprocess.run(
                ["bash", "-c", command],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
            assert (ran.returncode, ran.stderr) == (0, ""), command
            printed = "".join(f"{line.rstrip()}\n" for line in ran.stdout.splitlines())
            pattern = re.escape(expected).replace("…\\\n", "(.*\\n)*?").replace("…", ".*")
            assert re.fullmatch(pattern, printed), (command, printed, expected)


def test_the_page_has_every_command_and_no_unknown_option() -> None:
    options: set[str] = set()
    for group in (pool.app, session.app):
        for name, command in typer.main.get_group(group).commands.items():
            assert re.search(rf"\b{name}\b", PAGE), name
            options |= {option for parameter in command.params for option in parameter.opts}
    known = options | {"--install-completion", "--output", "--mi-"}
    assert {each for each in re.findall(r"(?<![\w-])--[a-z][a-z-]*", PAGE) if each not in known} == set()
