"""llama-index-tools-azure-code-interpreter: `AzureCodeInterpreterToolSpec`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests
from identity import Identity
from llama_index.tools.azure_code_interpreter import AzureCodeInterpreterToolSpec
from serving import Server

FIGURE = "import matplotlib.pyplot as plt; _ = plt.plot([1, 3, 2]); plt.show()"


@pytest.fixture
def spec(server: Server, identifier: str) -> AzureCodeInterpreterToolSpec:
    spec = AzureCodeInterpreterToolSpec(server.endpoint, identifier)
    spec.access_token_provider = lambda: server.key
    return spec


def answer(spec: AzureCodeInterpreterToolSpec, code: str) -> dict[str, Any]:
    """What a model reads of the call, but for its envelope."""
    (tool, _) = spec.to_tool_list()
    return tool.call(python_code=code).raw_output["properties"]


def test_code_returns_its_result_and_output(spec: AzureCodeInterpreterToolSpec) -> None:
    content = answer(spec, "import sys; print('out'); print('err', file=sys.stderr); 6 * 7")
    assert (content["status"], content["result"]) == ("Success", 42)
    assert (content["stdout"], content["stderr"]) == ("out\n", "err\n")


def test_variables_are_kept_between_calls(spec: AzureCodeInterpreterToolSpec) -> None:
    answer(spec, "x = 20")
    assert answer(spec, "x + 1")["result"] == 21


def test_an_exception_is_a_failure_with_its_traceback_in_stderr(spec: AzureCodeInterpreterToolSpec) -> None:
    content = answer(spec, "undefined")
    assert content["status"] == "Failure"
    assert "NameError" in content["stderr"]


def test_a_figure_is_saved(spec: AzureCodeInterpreterToolSpec, tmp_path: Path) -> None:
    spec.local_save_path = str(tmp_path)
    assert answer(spec, FIGURE)["result"] == {"type": "image", "format": "png", "saved_to_local_path": True}
    (picture,) = tmp_path.glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_file_goes_up_is_listed_read_by_code_and_comes_down(
    spec: AzureCodeInterpreterToolSpec, tmp_path: Path
) -> None:
    (tmp_path / "größe 5.csv").write_bytes(b"a,b\n1,2\n")
    (uploaded,) = spec.upload_file(local_file_path=str(tmp_path / "größe 5.csv"))
    assert (uploaded.file_full_path, uploaded.size_in_bytes) == ("/mnt/data/größe 5.csv", 8)
    assert spec.list_files() == [uploaded]
    assert answer(spec, f"print(open({uploaded.file_full_path!r}).read())")["stdout"] == "a,b\n1,2\n\n"
    spec.download_file_to_local(uploaded.file_full_path, str(tmp_path / "down.csv"))
    assert (tmp_path / "down.csv").read_bytes() == b"a,b\n1,2\n"


def test_a_missing_file_is_an_error(spec: AzureCodeInterpreterToolSpec) -> None:
    with pytest.raises(requests.HTTPError, match="404"):
        spec.download_file_to_local("missing.txt")


def test_the_managed_identity_of_the_machine_is_used(server: Server, identifier: str, identity: Identity) -> None:
    assert answer(AzureCodeInterpreterToolSpec(server.endpoint, identifier), "6 * 7")["result"] == 42
    assert identity.resources == ["https://dynamicsessions.io"]
