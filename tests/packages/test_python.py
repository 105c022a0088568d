"""Python packages of bubblewrap's sandboxes, from an index on the loopback."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.packages.index import Index, source, wheel
from tests.small_disk import mounted
from tests.waiting import within

import greenroom
from greenroom import EngineUnavailable, InvalidRequest, Progress, SessionPool
from greenroom.engines.bubblewrap.engine import BubblewrapEngine
from greenroom.engines.packages import Packages, installers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("_bubblewrap", "cache")]

GREETING = "from words import WORD\ndef main(): print(WORD)\n"


def pool_with(packages: Any, **options: Any) -> SessionPool:
    return greenroom.connect("bubblewrap:", packages=packages, preload=(), ready_session_instances=0, **options)


def environments(cache: Path) -> list[str]:
    """The names of those that were made."""
    return sorted(path.name for path in cache.glob("[!.]*") if path.is_dir())


def leftovers(cache: Path) -> list[str]:
    return [path.name for path in cache.glob(".*-*") if path.is_dir()]


@pytest.fixture
def greeting(index: Index) -> Index:
    index.add(wheel("greeting", code=GREETING, requires=["words>=1"], command=True))
    index.add(wheel("words", code="WORD = 'hello'\n"))
    return index


@pytest.fixture(params=["pip", "uv"])
def installer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """pip, or uv where the interpreter is without pip."""
    if request.param == "uv":
        if not (shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))):
            pytest.skip("uv is not installed")
        monkeypatch.setattr(installers, "_HAS_PIP", "raise SystemExit(1)")
    return request.param


def test_packages_are_available_to_code_and_its_processes(greeting: Index, installer: str) -> None:
    with pool_with(("greeting",)) as pool:
        session = pool.session("a-session")
        execution = session.execute(
            "import greeting, sys, subprocess\n"
            "greeting.main()\n"
            "!greeting\n"
            "!python -c 'import greeting; greeting.main()'\n"
            "!python3 -I -c 'import greeting, IPython; greeting.main()'\n"
            "!pip list --disable-pip-version-check 2>/dev/null | grep -c -E '^(greeting|words|ipython) '\n"
        )
        assert execution.stdout.split() == ["hello"] * 4 + ["3"], execution
        assert session.shell("greeting").stdout == "hello\n"


def test_code_of_packages_runs_only_under_the_filter_of_a_sandbox(index: Index) -> None:
    index.add(wheel("filtered", code="FILTER = [line for line in open('/proc/self/status') if 'Seccomp:' in line]\n"))
    options: dict[str, Any] = {"packages": "filtered", "preload": ["filtered"], "ready_session_instances": 0}
    with greenroom.connect("bubblewrap:", **options) as pool:
        for _ in range(3):
            with pool.session() as session:
                assert session.execute("import filtered; filtered.FILTER").result == r"['Seccomp:\t2\n']"


async def test_packages_are_why_sandboxes_are_not_forked(greeting: Index) -> None:
    engine = BubblewrapEngine(packages=Packages.parse("greeting"))
    await engine.check()
    await engine.close()
    assert engine.fork_obstacle is not None
    assert "packages" in engine.fork_obstacle


def test_an_environment_is_made_once_and_needs_no_index_again(greeting: Index, cache: Path) -> None:
    with pool_with(["greeting"]) as pool:
        pool.session("a-session").execute("import greeting").raise_for_error()
    made = environments(cache)
    greeting.requested.clear()
    with pool_with("greeting") as pool:
        pool.session("a-session").execute("import greeting").raise_for_error()
    assert greeting.requested == []
    assert environments(cache) == made
    assert len(made) == 1


def test_other_requirements_are_another_environment(greeting: Index, cache: Path, tmp_path: Path) -> None:
    greeting.add(wheel("words", "2.0", code="WORD = 'goodbye'\n"))
    file = tmp_path / "requirements.txt"
    file.write_text("greeting\nwords<2  # the first\n")
    with pool_with(file) as pool:
        assert pool.session("a-session").execute("import words; words.WORD").result == "'hello'"
    file.write_text("greeting\nwords>=2\n")
    with pool_with(str(file)) as pool:
        assert pool.session("a-session").execute("import words; words.WORD").result == "'goodbye'"
    assert len(environments(cache)) == 2


def test_pools_share_nothing_and_code_can_change_nothing(greeting: Index, cache: Path) -> None:
    with pool_with("words") as words, pool_with("greeting") as both, pool_with(()) as none:
        assert words.session("a-session").execute("import greeting").error.name == "ModuleNotFoundError"  # type: ignore[union-attr]
        assert none.session("a-session").execute("import words").error.name == "ModuleNotFoundError"  # type: ignore[union-attr]
        session = both.session("a-session")
        code = "import words, os; os.{}(words.__file__{})"
        for call in (("unlink", ""), ("chmod", ", 0o777"), ("truncate", ", 0"), ("utime", "")):
            assert session.execute(code.format(*call)).error.name in {"OSError", "PermissionError"}, call  # type: ignore[union-attr]
        seen = session.execute(f"import os; print(os.path.exists({str(cache)!r}))").stdout
        assert seen == "False\n"
    assert oct(cache.stat().st_mode & 0o777) == "0o700"


def test_wheels_that_the_interpreter_has_are_not_installed_again(index: Index, cache: Path) -> None:
    index.add(wheel("words", code="import numpy\n", requires=["numpy"]))  # the index has no numpy
    with pool_with("words") as pool:
        pool.session("a-session").execute("import words").raise_for_error()
    assert [path.name for path in cache.glob("python-*/lib/*/site-packages/numpy")] == []


def test_a_file_that_does_not_match_its_hash_is_refused(
    index: Index, tmp_path: Path, cache: Path, installer: str
) -> None:
    content = index.add(wheel("words", code="WORD = 'hello'\n"))
    file = tmp_path / "requirements.txt"
    file.write_text(f"words==1.0 --hash=sha256:{hashlib.sha256(content).hexdigest()}\n")
    index.add(wheel("words", code="WORD = 'changed'\n"))
    with pytest.raises(InvalidRequest, match=r"The package words does not match its hash"):
        pool_with(file)
    assert environments(cache) == leftovers(cache) == []


def test_a_package_without_a_wheel_is_refused_by_name_and_its_code_does_not_run(
    index: Index, tmp_path: Path, cache: Path, installer: str
) -> None:
    setup = f"open({str(tmp_path / 'ran')!r}, 'w')"
    index.add(source("built", setup=setup))
    index.add(wheel("innocent", requires=[f"built @ {index.url}/built-1.0.tar.gz"]))
    for packages in ("built", "innocent", f"built @ {index.url}/built-1.0.tar.gz", "built @ git+https://x.example/b"):
        with pytest.raises(InvalidRequest, match=r"built\b.*(?:wheel)(.|\n)*greenroom image build"):
            pool_with([packages])
    assert not (tmp_path / "ran").exists()
    assert environments(cache) == leftovers(cache) == []


def test_a_package_that_does_not_exist_is_named(index: Index, installer: str) -> None:
    with pytest.raises(InvalidRequest, match="The package missing cannot be found"):
        pool_with("missing")


@pytest.mark.parametrize(
    ("packages", "message"),
    [
        (5, "must be package names"),
        ([5], "must contain package names or file paths, not int"),
        ("--index-url=https://x.example", "in pip's form"),
        (["-e", "."], "in pip's form"),
        ("other.json", "named package-lock.json, not 'other.json'"),
        (["package-lock.json", "polars"], "either a single package-lock.json"),
        ("package-lock.json", "must be Python packages"),
        ("missing.txt", "missing.txt cannot be read"),
    ],
)
def test_other_values_are_refused_with_the_rule_that_they_break(packages: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        pool_with(packages)


@pytest.mark.parametrize("line", ["-e .", "--no-binary words", "./words", "git+https://x.example/a", "words.tar.gz"])
def test_lines_that_ask_for_a_build_are_refused(line: str, tmp_path: Path, index: Index) -> None:
    (tmp_path / "inner.txt").write_text(f"{line}\n")
    (tmp_path / "requirements.txt").write_text("words\n-r inner.txt\n")
    with pytest.raises(InvalidRequest, match=r"in inner\.txt.*(?:only wheels|must be a wheel)"):
        pool_with(tmp_path / "requirements.txt")
    assert index.requested == []


def test_a_wheel_of_this_machine_is_installed_and_a_new_one_replaces_it(tmp_path: Path, index: Index) -> None:
    for word in ("first", "second"):
        name, content = wheel("words", code=f"WORD = {word!r}\n")
        (tmp_path / name).write_bytes(content)
        (tmp_path / "requirements.txt").write_text(f"./{name}\n")
        for packages in (tmp_path / name, tmp_path / "requirements.txt"):
            with pool_with(packages) as pool:
                assert pool.session("a-session").execute("import words; words.WORD").result == repr(word)


def test_an_option_of_a_url_can_name_several(greeting: Index) -> None:
    url = "bubblewrap:?packages=greeting>=1,<2,words==1.0&ready_session_instances=0"
    with greenroom.connect(url, preload=()) as pool:
        pool.session("a-session").execute("import greeting, words").raise_for_error()


def test_run_has_an_option_for_packages(greeting: Index) -> None:
    command = [sys.executable, "-m", "greenroom", "run", "--pool", "bubblewrap:", "--with", "greeting", "-c"]
    ended = subprocess.run([*command, "import greeting; greeting.main()"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "hello\n"), ended


PREPARE = """
import asyncio, sys
from greenroom.engines.bubblewrap.engine import BubblewrapEngine
from greenroom.engines.packages import Packages

async def main():
    engine = BubblewrapEngine(packages=Packages.parse(sys.argv[1:]))
    await engine.check()
    await engine.close()

asyncio.run(main())
"""


def prepare(*packages: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PREPARE, *packages], stderr=subprocess.PIPE, start_new_session=True)


def test_two_processes_at_the_same_time_make_it_once(greeting: Index, cache: Path) -> None:
    both = [prepare("greeting") for _ in range(2)]
    errors = [process.communicate(timeout=240)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(environments(cache)) == 1
    assert sum("words-1.0" in path for path in greeting.requested) <= 2  # for the lock, and to install it


def test_a_killed_installation_leaves_nothing_that_is_used(
    greeting: Index, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = _silent_index(monkeypatch, greeting)
    process = prepare("greeting")
    try:
        assert within(120, lambda: bool(leftovers(cache)) and bool(_children(process.pid)))
        children = _children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        assert within(60, lambda: not any(Path(f"/proc/{child}").exists() for child in children)), "installers stay"
    finally:
        listener.close()
    assert environments(cache) == []
    monkeypatch.setenv("PIP_INDEX_URL", greeting.simple)
    with pool_with("greeting") as pool:
        pool.session("a-session").execute("import greeting").raise_for_error()
    assert leftovers(cache) == []


def _silent_index(monkeypatch: pytest.MonkeyPatch, index: Index) -> Any:
    """Let pip wait for an index that never answers."""
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{listener.getsockname()[1]}")
    return listener


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache on a disk of one megabyte."""
    with mounted(tmp_path / "small", "1m") as disk:
        monkeypatch.setenv("XDG_CACHE_HOME", str(disk))
        yield disk


def test_a_full_disk_is_reported_and_cleaned(index: Index, small_disk: Path, installer: str) -> None:
    noise = "".join(hashlib.sha256(str(number).encode()).hexdigest() for number in range(40_000))
    index.add(wheel("large", files={"large.txt": noise}))
    with pytest.raises(EngineUnavailable, match="The disk is full: the packages were not installed"):
        pool_with("large")
    cache = small_disk / "greenroom" / "packages"
    assert environments(cache) == leftovers(cache) == []


async def test_progress_is_reported(greeting: Index) -> None:
    reported: list[Progress] = []
    engine = BubblewrapEngine(packages=Packages.parse("greeting"))
    engine.report = reported.append
    await engine.check()
    await engine.close()
    assert reported[0] == Progress("install", "packages", 0, None, "packages")
    assert reported[-1] == Progress("install", "packages", 2, 2, "packages")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_an_interpreter_of_another_user_is_not_run(tmp_path: Path, index: Index) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    python.chmod(0o755)
    os.chown(python, 12_345, 12_345)
    with pytest.raises(EngineUnavailable, match="belongs to another user"):
        pool_with("words", python=str(python))
    assert not (tmp_path / "ran").exists()


def test_a_missing_package_says_how_to_add_it(index: Index) -> None:
    with pool_with(()) as pool:
        text = pool.session("a-session").execute("import words").text_for_model()
    assert 'The application can add packages: packages="requirements.txt" when opening the pool.' in text
