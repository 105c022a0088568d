"""`greenroom session` on a server of this machine: a session lives on between two commands."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from greenroom.cli.app import app
from greenroom.testing.engines import skipping_without
from greenroom.testing.server import serving

from .arm import Arm, serving_arm

POOLS = {"python": "PythonLTS", "shell": "Shell"}
SESSION = ["--identifier", "user-0007"]


@pytest.fixture(scope="module")
def arm() -> Generator[Arm, None, None]:
    """A server that knows two pools, each of which runs code."""
    with ExitStack() as stack:
        arm = stack.enter_context(serving_arm())
        for name, container_type in POOLS.items():
            with skipping_without("bubblewrap:"):
                url = stack.enter_context(
                    serving("bubblewrap:", ready_session_instances=0, preload=(), container_type=container_type)
                )
            arm.endpoint = url
            arm.add(name, "greenroom", containerType=container_type)
        yield arm


@pytest.fixture(autouse=True)
def _server(arm: Arm, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "MANAGEMENT_KEY", "CONFIG"):
        monkeypatch.delenv(f"GREENROOM_{name}", raising=False)
    monkeypatch.setenv("GREENROOM_SERVER", arm.url)
    monkeypatch.setenv("COLUMNS", "200")


def run(command: str, *arguments: str, pool: str = "python", session: bool = True, stdin: str | None = None) -> Result:
    identified = SESSION if session else []
    return CliRunner().invoke(app, ["session", command, "--pool", pool, *identified, *arguments], input=stdin)


def output_of(command: str, *arguments: str, pool: str = "python", session: bool = True) -> str:
    result = run(command, *arguments, pool=pool, session=session)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout


@pytest.fixture(autouse=True)
def _no_session_is_left(_server: None) -> Generator[None, None, None]:
    yield
    for pool in POOLS:
        output_of("stop", pool=pool)


def test_variables_and_files_are_kept_until_the_session_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("month,sales\n1,10\n2,30\n")
    assert output_of("execute", "--code", "x = 21\nprint('set')") == "set\n"
    assert output_of("execute", "--code", "x * 2") == "42\n"
    assert "sales.csv" in output_of("upload-file", "--filepath", str(tmp_path / "sales.csv"))
    output_of("upload-file", "--filepath", str(tmp_path / "sales.csv"), "--path", "below")
    assert output_of("execute", "--code", "print(open('/mnt/data/sales.csv').read())") == "month,sales\n1,10\n2,30\n\n"
    names = [line.split()[0] for line in output_of("list-files", "--recursive").splitlines()]
    assert names == ["name", "below/", "below/sales.csv", "sales.csv"]
    assert output_of("show-file-content", "--filename", "sales.csv", "--path", "/") == "month,sales\n1,10\n2,30\n"
    assert " 22 " in output_of("show-file-metadata", "--filename", "sales.csv")
    output_of("delete-file", "--filename", "sales.csv", "--path", "/mnt/data/below")
    assert "below/sales.csv" not in output_of("list-files", "--path", "below")
    assert output_of("list", session=False).splitlines()[1].split()[0] == "user-0007"
    assert output_of("show").splitlines()[0].split() == ["identifier", "user-0007"]
    output_of("stop")
    assert "no sessions" in run("list", session=False).stderr
    assert "NameError" in run("execute", "--code", "x").stderr


def test_json_is_the_same_as_from_azure_and_az(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    execution = json.loads(output_of("execute", "--code", "print('out')\n6 * 7", "--output", "json"))
    assert execution["identifier"] == "user-0007"
    assert execution["status"] == "Succeeded"
    assert execution["result"] | {"executionTimeInMilliseconds": 0} == {
        "stdout": "out\n",
        "stderr": "",
        "executionResult": 42,
        "executionTimeInMilliseconds": 0,
    }
    uploaded = json.loads(output_of("upload-file", "--filepath", str(tmp_path / "a.txt"), "-o", "json"))
    listed = json.loads(output_of("list-files", "-o", "json"))
    shown = json.loads(output_of("show-file-metadata", "--filename", "a.txt", "-o", "json"))
    assert uploaded == shown
    assert listed == {"value": [shown]} | {"value": listed["value"]}
    assert (listed["value"][0]["name"], shown["sizeInBytes"]) == ("a.txt", 5)
    (session,) = json.loads(output_of("list", "-o", "json", session=False))["sessions"]
    assert session["identifier"] == "user-0007"
    assert json.loads(output_of("show", "-o", "json")).keys() >= {"createdAt", "lastAccessedAt"}


ENDS = {
    "print(1)": 0,
    "1 / 0": 1,
    "raise SystemExit(3)": 3,
    "while True: pass": 124,
}


@pytest.mark.parametrize("code", ENDS)
def test_the_exit_code_is_that_of_the_execution(code: str) -> None:
    limit = "0.5" if ENDS[code] == 124 else "30"
    assert run("execute", "--code", code, "--timeout-in-seconds", limit).exit_code == ENDS[code]
    assert run("execute", "--code", code, "--timeout", limit, "--output", "json").exit_code == ENDS[code]


def test_code_comes_from_a_file_or_standard_input(tmp_path: Path) -> None:
    file = tmp_path / "program.py"
    file.write_text("print('from the file')")
    assert output_of("execute", "--code", f"@{file}") == "from the file\n"
    assert run("execute", "--code", "-", stdin="print('typed')").stdout == "typed\n"
    decorated = "@staticmethod\ndef double(x): return 2 * x\nprint(double(21))"
    assert output_of("execute", "--code", decorated) == "42\n"
    assert "must name a text file" in str(run("execute", "--code", "@/none").exception)


def test_figures_and_files_are_saved(tmp_path: Path) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nopen('new.txt', 'w').write('x')\nplt.show()"
    output_of("execute", "--code", "%cd -q /mnt/data")
    output_of("execute", "--code", code, "--save", str(tmp_path))
    assert (tmp_path / "figure-1.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "new.txt").read_text() == "x"
    assert "saved with --save" in run("execute", "--code", "plt.plot([1, 2])\nplt.show()").stderr


@pytest.mark.parametrize("pool", POOLS)
def test_a_shell_command_has_its_own_exit_code(pool: str) -> None:
    ended = run("shell", "--command", "echo out; echo err >&2; exit 7", pool=pool)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (7, "out\n", "err\n")
    as_json = run("shell", "--command", "echo out; exit 7", "--output", "json", pool=pool)
    assert as_json.exit_code == 7
    assert (json.loads(as_json.stdout)["status"], json.loads(as_json.stdout)["result"]["stdout"]) == ("7", "out\n")


def test_code_in_a_pool_of_shells_is_a_command() -> None:
    assert output_of("execute", "--code", "echo $((6 * 7))", pool="shell") == "42\n"
    assert json.loads(output_of("execute", "--code", "true", "-o", "json", pool="shell"))["status"] == "0"
    ended = run("execute", "--code", "exit 7", pool="shell")
    assert (ended.exit_code, ended.stderr) == (7, "")


def test_a_shell_without_a_command_needs_a_terminal() -> None:
    assert "Without a terminal, --command must be given" in str(run("shell").exception)


def test_typed_lines_run_as_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    typed = iter(["echo one > a.txt", "", "cat a.txt", "exit"])
    out = Terminal()

    def read(_: str) -> str:
        return next(typed)

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(sys, "argv", ["greenroom", "session", "shell", "--pool", "python", *SESSION])
    for name, stream in (("stdin", Terminal()), ("stdout", out), ("stderr", Terminal())):
        monkeypatch.setattr(sys, name, stream)
    with pytest.raises(SystemExit) as ended:
        app()
    assert (ended.value.code, out.getvalue()) == (0, "one\n")


def test_a_container_that_runs_no_code_is_reported(arm: Arm) -> None:
    with serving_arm() as container:
        arm.endpoint = container.url
        arm.add("custom", "greenroom", containerType="CustomContainer")
        try:
            for command in (["execute", "--code", "1"], ["list-files"]):
                assert "must support code and files themselves" in str(run(*command, pool="custom").exception)
        finally:
            del arm.pools["greenroom", "custom"]


def test_bytes_of_a_file_are_printed_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    output_of("upload-file", "--filepath", str(tmp_path / "a.bin"))
    assert run("show-file-content", "--filename", "a.bin").stdout_bytes == bytes(range(256))


def test_a_missing_session_or_file_is_an_error(tmp_path: Path) -> None:
    cases = {
        ("show",): "has no session 'user-0007'",
        ("show-file-content", "--filename", "none"): "none",
        ("delete-file", "--filename", "none"): "none",
        ("upload-file", "--filepath", str(tmp_path / "none")): "none",
    }
    for arguments, message in cases.items():
        result = run(*arguments)
        assert result.exit_code != 0
        assert message in str(result.exception), arguments
    assert "must be used with --subscription" in str(run("show", "--session-pool-location", "eastasia").exception)
    missing = run("execute", "--code", "1", pool="pythn")
    assert "Did you mean 'python'? Pools: python, shell." in str(missing.exception)
