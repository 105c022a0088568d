"""Each distribution stands on its own."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import tomllib
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from releasing.distributions import FOLDERS, ROOT, UV, project
from tests.packaging.installing import installed

from greenroom.testing import engine_pool

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
        (text,) = asyncio.run(GreenroomTools(session=session).code_tool.invoke(arguments={"code": "6 * 7"}))
        print(text.text)
    """,
}


def names_in(programs: Path) -> set[str]:
    command = [UV, "pip", "list", "--quiet", "--format", "json", "--python", programs / "python"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {each["name"].lower() for each in json.loads(listed)}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_dependency_says_what_it_is_for(folder: str) -> None:
    lines = (ROOT / "packages" / folder / "pyproject.toml").read_text().partition("[build-system]")[0].splitlines()
    bare = [
        line
        for above, line in itertools.pairwise(lines)
        if ">=" in line and "#" not in line and not above.startswith("#") and not line.startswith("requires-python")
    ]
    assert bare == []


@pytest.mark.timeout(300)
@pytest.mark.parametrize("folder", FOLDERS[1:])
def test_an_adapter_installed_alone_imports_and_works(folder: str, wheels: Path, tmp_path: Path) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    programs = installed(tmp_path / "venv", wheels, project(folder)["name"], "greenroom[bubblewrap]")
    program = "import greenroom\nwith greenroom.connect('bubblewrap:') as pool, pool.session() as session:\n"
    program += WORKS[folder].replace("        ", "    ")
    result = run(programs / "python", "-c", program)
    assert "42" in result.stdout, result.stderr


@pytest.mark.timeout(300)
def test_the_core_depends_only_on_pydantic_and_names_the_extras(wheels: Path, tmp_path: Path) -> None:
    programs = installed(tmp_path / "venv", wheels, "greenroom")
    pydantic = {"pydantic", "pydantic-core", "annotated-types", "typing-extensions", "typing-inspection"}
    assert names_in(programs) == {"greenroom", *pydantic}
    for command in ([programs / "greenroom", "doctor"], [programs / "python", "-m", "greenroom"]):
        ended = run(*command)
        assert ended.returncode == 2
        assert ended.stderr.count("\n") == 1
        assert "pip install 'greenroom[cli]'" in ended.stderr
    for_tests = run(programs / "python", "-c", "from greenroom.testing import memory_pool")
    assert for_tests.stderr.splitlines()[-1].endswith("Install it: pip install 'greenroom[testing]'.")
    opened = run(programs / "python", "-c", "import greenroom; greenroom.connect()")
    assert opened.returncode == 1
    assert "pip install 'greenroom[bubblewrap]'" in opened.stderr
    assert "pip install 'greenroom[docker]'" in opened.stderr


def _serves(programs: Path) -> None:
    command = [programs / "greenroom", "serve", "--pool", "bubblewrap:", "--port", "0"]
    environment = {**os.environ, "GREENROOM_API_KEY": "a-key-of-the-test-alone"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd="/") as server:
        assert server.stderr is not None
        try:
            assert server.stderr.readline().startswith("Serving")
        finally:
            server.terminate()


def _keeps_pools(programs: Path) -> None:
    command = [programs / "greenroom", "serve", "--pool", "bubblewrap:", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd="/") as server:
        assert server.stderr is not None
        try:
            url = server.stderr.readline().split()[-1]
            assert "default (declared)" in run(programs / "greenroom", "pool", "list", "--server", url).stdout
        finally:
            server.terminate()


def _plots(programs: Path) -> None:
    code = (
        "import pandas as pd; pd.Series([1, 2]).plot()\n"
        "table = pd.DataFrame([1]); table.style.to_html(); table.to_excel('a.xlsx')"
    )
    program = f"import greenroom\nwith greenroom.connect() as pool: print(pool.session().execute({code!r}))"
    ended = run(programs / "python", "-c", program)
    assert "<Execution succeeded" in ended.stdout, ended.stdout + ended.stderr
    assert run(programs / "greenroom", "--version").returncode == 0


def _reaches_azure(programs: Path) -> None:
    endpoint = f"https://a.dynamicsessions.io/subscriptions/{uuid.UUID(int=0)}/resourceGroups/g/sessionPools/p"
    program = f"import greenroom\ngreenroom.connect({endpoint!r}).close()"
    ended = run(programs / "python", "-c", program)
    assert ended.returncode == 0, ended.stderr
    assert not names_in(programs) & {"ipython", "rich", "typer"}


def _runs_notebooks(programs: Path) -> None:
    _plots(programs)
    assert run(programs / "python", "-c", "import greenroom.notebook").returncode == 0


def _gives_pools_for_tests(programs: Path) -> None:
    program = (
        "from greenroom.testing import memory_pool, scripted_pool\n"
        "from greenroom import Tool\n"
        "tool = Tool('f', '', {'type': 'object', 'required': ['x']}, lambda arguments: arguments['x'])\n"
        "with memory_pool() as pool: print(pool.session().execute('f(**{\"x\": 6}) * 7', tools=[tool]).result)"
    )
    assert run(programs / "python", "-c", program).stdout == "42\n"


def _runs_javascript(programs: Path) -> None:
    program = (
        "import greenroom\n"
        "with greenroom.connect('bubblewrap:', container_type='NodeLTS') as pool:\n"
        "    print(pool.session().execute('6 * 7').result)"
    )
    assert run(programs / "python", "-c", program).stdout == "42\n"


def _speaks_opentelemetry(programs: Path) -> None:
    program = (
        "import greenroom, sys; assert 'opentelemetry' not in sys.modules\n"
        "import opentelemetry.metrics, opentelemetry.trace\n"
        "from greenroom.telemetry import meters, tracing\n"
        "assert meters.meters() is not None\n"
        "with tracing.spanning('a span', {}): print(tracing.headers())"
    )
    assert run(programs / "python", "-c", program).stdout == "{}\n"  # nobody records


EXTRAS: dict[str, Callable[[Path], None]] = {
    "azure": _reaches_azure,
    "bubblewrap,data": _plots,
    "bubblewrap,data,notebook": _runs_notebooks,
    "bubblewrap,node": _runs_javascript,
    "server,azure,bubblewrap": _keeps_pools,
    "server,bubblewrap": _serves,
    "telemetry": _speaks_opentelemetry,
    "testing": _gives_pools_for_tests,
}
"""The calls that a reader makes after installing the extras of a page, by these extras."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("extras", EXTRAS)
def test_the_extras_that_a_page_names_are_enough(extras: str, wheels: Path, tmp_path: Path) -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    EXTRAS[extras](installed(tmp_path / "venv", wheels, f"greenroom[{extras}]"))


def test_every_installation_that_a_page_names_is_tried() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("packages/*/README.md"), *ROOT.glob("docs/*.md")]
    pages.remove(ROOT / "docs/troubleshooting.md")  # quotes errors, which name an extra for what is installed already
    named = {
        extras for page in pages for extras in re.findall(r"pip install[^`\n]*greenroom\[([\w,]+)\]", page.read_text())
    }
    assert named - {"server", "deepagents", "agents"} == set(EXTRAS)


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
