"""`greenroom doctor`: checks what works on this machine, and what to do next."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shlex
from collections.abc import AsyncGenerator, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from greenroom.config import sources
from greenroom.connecting import session as one_session
from greenroom.engines import registry
from greenroom.engines.base import ControlGroups, Engine
from greenroom.errors import EngineUnavailable, GreenroomError, ImageMissing
from greenroom.untrusted import without_controls

_GROUP_NOTES = {
    ControlGroups.VERSION_1: (
        "Version 1 does not count the buffers of UDP sockets towards a sandbox's memory; version 2 does."
    ),
    ControlGroups.NONE: (
        "Without control groups, the limits on memory and processes apply to each process, not to the whole sandbox. "
        "Run as root, or in a delegated group: systemd-run --user --scope -p Delegate=yes …"
    ),
}
"""Notes on each version of control groups."""

# Runs in a new sandbox. Reports which modules it had to compile, as it cannot keep their bytecode; which packages of
# the extra `data` it lacks; and whether its system calls are filtered.
_LOOK = """
import importlib.util, json, os, platform, sys, sysconfig
packages = sysconfig.get_path("purelib")
specs = [module.__spec__ for module in list(sys.modules.values()) if getattr(module, "__spec__", None)]
cached = [spec.cached for spec in specs if spec.cached and spec.cached.startswith(packages)]
missing = sum(not os.path.exists(path) for path in cached)
usual = ["jinja2", "matplotlib", "numpy", "openpyxl", "pandas"]
absent = [name for name in usual if importlib.util.find_spec(name) is None]
filtered = "Seccomp:\\t2" in open("/proc/self/status").read()
print(json.dumps([platform.python_version(), missing > len(cached) / 10, sys.executable, packages, absent, filtered]))
"""
_LOGIN_TIMEOUT = 15.0


class Format(StrEnum):
    """The format of the report."""

    TABLE = "table"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of the report."""

    check: str
    works: bool
    detail: str
    next: str = ""
    """What to do, in complete sentences."""


def doctor(
    output: Annotated[Format, typer.Option(help="The format of the report; json is for programs.")] = Format.TABLE,
) -> None:
    """Try every engine on this machine with a real sandbox, and report what works and what to do next.

    The exit code is 1 if no engine works.
    """
    found = {scheme: list(_examine(scheme)) for scheme in registry.schemes()}
    if found.get("docker", [_NOTHING])[0].works:
        found["docker, gVisor"] = list(_examine("docker, gVisor", "docker:?runtime=runsc"))
    findings = [*(finding for each in found.values() for finding in each), asyncio.run(_azure())]
    if output is Format.JSON:
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        _print(findings)
    if not any(each[0].works for each in found.values()):
        raise typer.Exit(1)


_NOTHING = Finding("", works=False, detail="")


def _examine(name: str, url: str = "") -> Iterator[Finding]:
    """Yield the findings about an engine, starting with whether it works."""
    scheme = name.partition(",")[0]
    try:
        with one_session(url or f"{scheme}:") as session:
            look = json.loads(session.execute(_LOOK).raise_for_error().stdout)
        version, slow, python, packages, absent, filtered = look
        groups, obstacle = asyncio.run(_properties(scheme))
    except (GreenroomError, TypeError, ValueError) as error:  # or its output was not as expected
        detail = "its image is missing" if isinstance(error, ImageMissing) else "does not work"
        yield Finding(name, works=False, detail=detail, next=str(error))
        return
    yield Finding(name, works=True, detail=f"Python {version}")
    yield Finding(
        f"{name}: limits", groups is not ControlGroups.NONE, f"control groups: {groups}", _GROUP_NOTES.get(groups, "")
    )
    if "runtime" in url:
        yield Finding(f"{name}: system calls", works=True, detail="a separate kernel")
    else:
        yield Finding(f"{name}: system calls", bool(filtered), "filtered" if filtered else "not filtered")
    install = "pip install 'greenroom[data]'" if scheme == "bubblewrap" else "greenroom image build"
    yield Finding(
        f"{name}: packages",
        not absent,
        f"missing: {', '.join(map(str, absent))}" if absent else "all usual ones installed",
        f"Code cannot import {', '.join(map(str, absent))}. Install the missing packages: {install}" if absent else "",
    )
    if scheme == "bubblewrap":
        command = shlex.join([python, "-m", "compileall", "-q", packages])
        yield Finding(
            f"{name}: starts",
            obstacle is None,
            "forked from a template" if obstacle is None else "not forked from a template",
            f"Each Python sandbox is started from scratch, which takes more time and memory: {obstacle}."
            if obstacle
            else "",
        )
        yield Finding(
            f"{name}: bytecode",
            not slow,
            "missing" if slow else "present",
            "The packages have no bytecode: each sandbox compiles them and starts slowly. Fix this with: "
            f"{command} (uv does so with --compile-bytecode)"
            if slow
            else "",
        )


async def _azure() -> Finding:
    """Check whether there is a token for pools in Azure."""
    from greenroom.azure.credentials import CredentialTokens, default_credential  # noqa: PLC0415

    logging.getLogger("azure").addHandler(logging.NullHandler())  # otherwise its own messages go to standard error
    tokens = CredentialTokens(lambda: default_credential(None), owned=True)
    try:
        async with asyncio.timeout(_LOGIN_TIMEOUT):
            await tokens.get()
    except (GreenroomError, TimeoutError) as error:
        needs_package = isinstance(error, EngineUnavailable)
        advice = str(error) if needs_package else "To use pools in Azure, log in with 'az login'."
        return Finding("Azure", works=False, detail="not installed" if needs_package else "not logged in", next=advice)
    finally:
        await tokens.close()
    return Finding("Azure", works=True, detail="logged in")


def _print(findings: list[Finding]) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 200
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("check", "works", "detail"):
        table.add_column(title)
    for finding in findings:
        table.add_row(
            without_controls(finding.check), "yes" if finding.works else "no", without_controls(finding.detail)
        )
    console.print(table)
    for finding in findings:
        if finding.next:
            console.print(f"\n{without_controls(finding.check)}: {without_controls(finding.next)}", soft_wrap=True)


async def _properties(scheme: str) -> tuple[ControlGroups, str | None]:
    """Return the control groups of an engine, and why bubblewrap cannot fork sandboxes."""
    async with checked_engine(scheme) as engine:
        return engine.control_groups, getattr(engine, "fork_obstacle", None)


@contextlib.asynccontextmanager
async def checked_engine(scheme: str) -> AsyncGenerator[Engine, None]:
    """Open the engine of a scheme, with its options from the environment."""
    plugin = registry.plugin(scheme)
    engine = plugin.engine(sources.from_environment(plugin.options.model_fields))
    try:
        await engine.check()
        yield engine
    finally:
        await engine.close()
