"""langchain-azure-dynamic-sessions: `SessionsPythonREPLTool` and `SessionsBashTool`."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import requests
from identity import Identity
from langchain_azure_dynamic_sessions import SessionsBashTool, SessionsPythonREPLTool
from serving import Server

FIGURE = "import matplotlib.pyplot as plt; _ = plt.plot([1, 3, 2]); plt.show()"


@pytest.fixture
def python(server: Server, identifier: str) -> SessionsPythonREPLTool:
    return SessionsPythonREPLTool(
        pool_management_endpoint=server.endpoint, access_token_provider=lambda: server.key, session_id=identifier
    )


@pytest.fixture
def bash(server: Server, identifier: str) -> SessionsBashTool:
    return SessionsBashTool(
        pool_management_endpoint=server.endpoint, access_token_provider=lambda: server.key, session_id=identifier
    )


def answer(tool: SessionsPythonREPLTool | SessionsBashTool, text: str) -> dict[str, Any]:
    """What a model reads."""
    return json.loads(tool.invoke(text))


def within(seconds: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_code_returns_its_result_and_output(python: SessionsPythonREPLTool) -> None:
    code = "import sys; print('out'); print('err', file=sys.stderr); 6 * 7"
    assert answer(python, code) == {"result": 42, "stdout": "out\n", "stderr": "err\n"}


def test_a_fenced_block_runs(python: SessionsPythonREPLTool) -> None:
    assert answer(python, "```python\nprint('hello')\n```")["stdout"] == "hello\n"


def test_variables_are_kept_between_calls(python: SessionsPythonREPLTool) -> None:
    answer(python, "x = 20")
    assert answer(python, "x + 1")["result"] == 21


def test_an_exception_is_in_stderr(python: SessionsPythonREPLTool) -> None:
    content = answer(python, "print('before')\nundefined")
    assert content["stdout"] == "before\n"
    assert "NameError" in content["stderr"]
    assert python.execute("1 / 0")["status"] == "Failure"


def test_a_figure_is_an_image_in_the_artifact_and_not_in_the_text(python: SessionsPythonREPLTool) -> None:
    message = python.invoke({"args": {"python_code": FIGURE}, "id": "1", "name": python.name, "type": "tool_call"})
    assert json.loads(message.content)["result"] == {"type": "image", "format": "png"}
    assert base64.b64decode(message.artifact["result"]["base64_data"]).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["sales.csv", "with a space.txt", "größe 5.txt", "a&b=c#d%20.txt"])
def test_a_file_goes_up_is_listed_read_by_code_and_comes_down(
    python: SessionsPythonREPLTool, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"a,b\n1,2\n")
    uploaded = python.upload_file(local_file_path=str(tmp_path / name))
    assert (uploaded.full_path, uploaded.size_in_bytes) == (f"/mnt/data/{name}", 8)
    assert [(file.filename, file.size_in_bytes) for file in python.list_files()] == [(name, 8)]
    assert answer(python, f"print(open({uploaded.full_path!r}).read())")["stdout"] == "a,b\n1,2\n\n"
    assert python.download_file(remote_file_path=name).read() == b"a,b\n1,2\n"


def test_a_file_that_code_writes_comes_down(python: SessionsPythonREPLTool, tmp_path: Path) -> None:
    answer(python, "import pathlib; pathlib.Path('/mnt/data/out.bin').write_bytes(bytes(range(256)) * 4000)")
    python.download_file(remote_file_path="out.bin", local_file_path=str(tmp_path / "out.bin"))
    assert (tmp_path / "out.bin").read_bytes() == bytes(range(256)) * 4000


def test_a_file_goes_into_a_folder_and_comes_down(python: SessionsPythonREPLTool) -> None:
    python.upload_file(data=BytesIO(b"inside"), remote_file_path="folder/inside.txt")
    assert python.download_file(remote_file_path="folder/inside.txt").read() == b"inside"


def test_a_missing_file_is_an_error(python: SessionsPythonREPLTool) -> None:
    with pytest.raises(requests.HTTPError, match="404"):
        python.download_file(remote_file_path="missing.txt")


@pytest.mark.parametrize("kind", ["python", "bash"])
def test_a_deleted_session_is_gone_with_its_files(
    kind: str, server: Server, identifier: str, request: pytest.FixtureRequest
) -> None:
    tool: SessionsPythonREPLTool | SessionsBashTool = request.getfixturevalue(kind)
    tool.upload_file(data=BytesIO(b"left"), remote_file_path="left.txt")
    with tool:
        assert identifier in server.sessions()
    assert within(60, lambda: identifier not in server.sessions())  # a thread of the tool's deletes it
    tool.session_id = identifier
    assert tool.list_files() == []


def test_an_identifier_keeps_its_characters(server: Server, python: SessionsPythonREPLTool) -> None:
    other = python.model_copy(update={"session_id": f"{python.session_id}|&^%$#(){{}}[];<>/:+="})
    try:
        answer(other, "x = 1")
        assert answer(other, "x")["result"] == 1
        assert "NameError" in answer(python, "x")["stderr"]
    finally:
        server.delete(other.session_id)


def test_without_a_token_provider_the_managed_identity_of_the_machine_is_used(
    server: Server, identifier: str, identity: Identity
) -> None:
    tool = SessionsPythonREPLTool(pool_management_endpoint=server.endpoint, session_id=identifier)
    assert answer(tool, "6 * 7")["result"] == 42
    assert set(identity.resources) <= {"https://dynamicsessions.io"}  # all tools of a process share one token


def test_a_caller_with_another_key_is_refused(server: Server) -> None:
    tool = SessionsPythonREPLTool(pool_management_endpoint=server.endpoint, access_token_provider=lambda: "another")
    with pytest.raises(requests.HTTPError, match="401"):
        tool.invoke("6 * 7")


def test_a_command_returns_its_output_and_exit_code(bash: SessionsBashTool) -> None:
    assert answer(bash, "echo out; echo err >&2; exit 3") == {"stdout": "out\n", "stderr": "err\n", "exitCode": 3}


def test_commands_share_the_files_of_their_session(bash: SessionsBashTool) -> None:
    assert answer(bash, "echo kept > kept.txt")["exitCode"] == 0
    assert answer(bash, "cat /mnt/data/kept.txt")["stdout"] == "kept\n"


def test_each_stream_of_a_command_ends_at_4096_bytes(bash: SessionsBashTool) -> None:
    content = answer(bash, "head -c 10000 /dev/zero | tr '\\0' x; head -c 10000 /dev/zero | tr '\\0' y >&2")
    assert content == {"stdout": "x" * 4096, "stderr": "y" * 4096, "exitCode": 0}


@pytest.mark.parametrize("name", ["sales.csv", "with a space.txt", "größe 5.txt"])
def test_a_file_goes_up_is_listed_read_by_a_command_and_comes_down(
    bash: SessionsBashTool, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"a,b\n1,2\n")
    uploaded = bash.upload_file(local_file_path=str(tmp_path / name))
    assert (uploaded.filename, uploaded.size_in_bytes) == (name, 8)
    assert [(file.filename, file.size_in_bytes) for file in bash.list_files()] == [(name, 8)]
    assert answer(bash, f"cat '{name}'")["stdout"] == "a,b\n1,2\n"
    assert bash.download_file(remote_file_path=name).read() == b"a,b\n1,2\n"
