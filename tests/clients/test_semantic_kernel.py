"""semantic-kernel: `SessionsPythonTool`, which accepts only https."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from azure.identity import DefaultAzureCredential
from identity import Identity
from semantic_kernel import Kernel
from semantic_kernel.core_plugins.sessions_python_tool.sessions_python_plugin import SessionsPythonTool
from semantic_kernel.core_plugins.sessions_python_tool.sessions_python_settings import SessionsPythonSettings
from semantic_kernel.exceptions.function_exceptions import FunctionExecutionException, FunctionInitializationError
from serving import Server

FIGURE = "import matplotlib.pyplot as plt; _ = plt.plot([1, 3, 2]); plt.show()"


@pytest.fixture
def tls_identifier(tls_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A session at the server with TLS, which this process then trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tls_server.authority))
    identifier = f"session-{uuid.uuid4()}"
    tls_server.prepare(identifier)
    yield identifier
    tls_server.delete(identifier)


@pytest.fixture
async def tool(tls_server: Server, tls_identifier: str, tmp_path: Path) -> AsyncIterator[SessionsPythonTool]:
    tool = SessionsPythonTool(
        auth_callback=lambda: tls_server.key,
        pool_management_endpoint=tls_server.endpoint,
        settings=SessionsPythonSettings(identifier=tls_identifier),
        enable_dangerous_file_uploads=True,
        allowed_upload_directories=[str(tmp_path)],
    )
    yield tool
    await tool.http_client.aclose()


async def test_code_returns_its_result_and_output(tool: SessionsPythonTool) -> None:
    text = await tool.execute_code("import sys; print('out'); print('err', file=sys.stderr); 6 * 7")
    assert text == "Status:\nSuccess\nResult:\n42\nStdout:\nout\n\nStderr:\nerr\n"


async def test_a_kernel_calls_the_tool(tool: SessionsPythonTool) -> None:
    kernel = Kernel()
    kernel.add_plugin(tool, "sessions")
    assert "Result:\n42" in str(await kernel.invoke(plugin_name="sessions", function_name="execute_code", code="6 * 7"))


async def test_variables_are_kept_between_calls(tool: SessionsPythonTool) -> None:
    await tool.execute_code("x = 20")
    assert "Result:\n21\n" in await tool.execute_code("x + 1")


async def test_an_exception_is_a_failure_with_its_traceback_in_stderr(tool: SessionsPythonTool) -> None:
    text = await tool.execute_code("undefined")
    assert text.startswith("Status:\nFailure\n")
    assert "NameError" in text.partition("Stderr:\n")[2]


async def test_a_figure_is_an_image_in_the_result(tool: SessionsPythonTool) -> None:
    assert "'type': 'image', 'format': 'png', 'base64_data': 'iVBOR" in await tool.execute_code(FIGURE)


@pytest.mark.parametrize("name", ["sales.csv", "größe 5.csv"])
async def test_a_file_goes_up_is_listed_read_by_code_and_comes_down(
    tool: SessionsPythonTool, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"a,b\n1,2\n")
    uploaded = await tool.upload_file(local_file_path=str(tmp_path / name))
    assert (uploaded.full_path, uploaded.size_in_bytes) == (f"/mnt/data/{name}", 8)
    assert await tool.list_files() == [uploaded]
    assert "a,b\n1,2\n" in await tool.execute_code(f"print(open({uploaded.full_path!r}).read())")
    downloaded = await tool.download_file(remote_file_name=name)
    assert downloaded is not None
    assert downloaded.read() == b"a,b\n1,2\n"


async def test_a_file_goes_up_after_code_has_run(tool: SessionsPythonTool, tmp_path: Path) -> None:
    """Its upload then says `Content-Type: application/json` over a multipart body."""
    await tool.execute_code("1")
    assert tool.http_client.headers["Content-Type"] == "application/json"
    (tmp_path / "late.txt").write_bytes(b"late")
    assert (await tool.upload_file(local_file_path=str(tmp_path / "late.txt"))).size_in_bytes == 4


async def test_a_missing_file_is_an_error(tool: SessionsPythonTool) -> None:
    with pytest.raises(FunctionExecutionException, match=r"404.*FileNotFound"):
        await tool.download_file(remote_file_name="missing.txt")


async def test_a_credential_gives_the_token(tls_server: Server, tls_identifier: str, identity: Identity) -> None:
    tool = SessionsPythonTool(
        credential=DefaultAzureCredential(),
        pool_management_endpoint=tls_server.endpoint,
        settings=SessionsPythonSettings(identifier=tls_identifier),
    )
    async with tool.http_client:
        assert "Result:\n42\n" in await tool.execute_code("6 * 7")
    assert identity.resources == ["https://acasessions.io"]  # its default, whatever Azure's documents say


async def test_an_endpoint_without_tls_is_not_taken(server: Server) -> None:
    """So the tests above did go over TLS."""
    with pytest.raises(FunctionInitializationError, match="https"):
        SessionsPythonTool(auth_callback=lambda: "", pool_management_endpoint=server.endpoint)
