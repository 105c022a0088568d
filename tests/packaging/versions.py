"""Runs the tests that need no engine with the lowest or the newest versions that the distributions allow.

Lowest: each distribution in an environment of its own, its direct dependencies at their floors, as all five together
would lift each other's. Newest: all of them, once with Semantic Kernel and once without, as it holds pydantic back.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
CORE = "packages/core[azure,bubblewrap,cli,docker,notebook,server,telemetry,testing]"
CORE_TESTS = ("@tests/unit.txt", "tests/docker/test_refusals.py")
TESTING = "packages/core[notebook,testing]"


@dataclass(frozen=True)
class Lane:
    """What is installed together, and which tests run with it.

    Attributes:
        projects: the folders to install, with their extras; the first is the one whose floors are tried.
        tests: files and folders.
        groups: dependency groups of the workspace, at any version.
    """

    projects: tuple[str, ...]
    tests: tuple[str, ...]
    groups: tuple[str, ...] = ("test",)


def adapter(folder: str, extras: str = "", *, groups: tuple[str, ...] = ("test",)) -> Lane:
    return Lane((f"packages/{folder}{extras}", TESTING), (f"packages/{folder}/tests",), groups)


LOWEST = {
    "core": Lane((CORE,), CORE_TESTS),
    "langchain": adapter("langchain", "[deepagents]", groups=("test", "frameworks")),
    "llamaindex": adapter("llamaindex"),
    "semantic_kernel": adapter("semantic_kernel"),
    "agent_framework": adapter("agent_framework"),
}
_OTHERS = ("packages/langchain[deepagents]", "packages/llamaindex", "packages/agent_framework")
_OTHER_TESTS = ("packages/langchain/tests", "packages/llamaindex/tests", "packages/agent_framework/tests")
NEWEST = {
    "without-semantic-kernel": Lane((CORE, *_OTHERS), (*CORE_TESTS, *_OTHER_TESTS), ("test", "frameworks")),
    "with-semantic-kernel": Lane(
        (CORE, *_OTHERS, "packages/semantic_kernel"),
        ("tests/core", "tests/adapters", *_OTHER_TESTS, "packages/semantic_kernel/tests"),
        ("test", "frameworks"),
    ),
}


def install(lane: Lane, python: Path, *, lowest: bool) -> None:
    """Install the projects at the versions that the lane is about, then what tests them at any version."""
    pip = [UV, "pip", "install", "--quiet", "--python", python]
    projects = [f"--editable={project}" for project in lane.projects]
    chosen = ["--resolution", "lowest-direct", projects[0]] if lowest else ["--upgrade", *projects]
    subprocess.run([*pip, *chosen], check=True, cwd=ROOT)
    installed = subprocess.run(
        [UV, "pip", "freeze", "--exclude-editable", "--python", python], check=True, capture_output=True, text=True
    ).stdout
    versions = python.parents[1] / "versions.txt"
    versions.write_text(installed)
    groups = [each for group in lane.groups for each in ("--group", group)]
    subprocess.run([*pip, "--constraint", versions, *projects, *groups], check=True, cwd=ROOT)


def run(name: str, lane: Lane, *, lowest: bool) -> bool:
    """Return whether the lane's tests pass."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"greenroom-{name}-") as directory:
        Path(directory).chmod(0o755)  # sandboxes run its Python as other users
        subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, directory], check=True)
        python = Path(directory, "bin", "python")
        install(lane, python, lowest=lowest)
        pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
        if any(test.startswith("tests/") for test in lane.tests):  # whose conftest.py has the profile
            pytest += ["--numprocesses", "2", "--dist", "worksteal", "--hypothesis-profile", "quick", "-m", "not slow"]
        ended = subprocess.run([*pytest, *lane.tests], check=False, cwd=ROOT, env=environment)
    outcome = "passed" if ended.returncode == 0 else "failed"
    print(f"{name}: {outcome} in {time.monotonic() - began:.0f} s", flush=True)
    return ended.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", choices=["lowest", "newest"])
    parser.add_argument("lanes", nargs="*", help="by default all")
    arguments = parser.parse_args()
    lanes = LOWEST if arguments.versions == "lowest" else NEWEST
    chosen = arguments.lanes or list(lanes)
    if unknown := set(chosen) - lanes.keys():
        parser.error(f"The lane must be one of {', '.join(lanes)}, not {', '.join(sorted(unknown))}.")
    passed = [run(name, lanes[name], lowest=arguments.versions == "lowest") for name in chosen]
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
