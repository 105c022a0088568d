"""The blocking and the asynchronous form of each call take the same arguments."""

from __future__ import annotations

import inspect

import pytest

from langchain_greenroom import GreenroomTool
from langchain_greenroom.deepagents import GreenroomSandbox
from langchain_greenroom.files import DownloadFileTool, ListFilesTool, ReadFileTool, UploadFileTool
from langchain_greenroom.sessions import SessionSource, SessionTool

TOOLS = [GreenroomTool, ListFilesTool, ReadFileTool, DownloadFileTool, UploadFileTool]


@pytest.mark.parametrize(
    ("owner", "name", "twin"),
    [
        (SessionSource, "delete_session", "adelete_session"),
        (SessionSource, "conversation", "aconversation"),
        (SessionTool, "_call", "_acall"),
        (GreenroomSandbox, "execute", "aexecute"),
        *((tool, "_run", "_arun") for tool in TOOLS),
    ],
)
def test_twins_take_the_same_arguments(owner: type, name: str, twin: str) -> None:
    one, other = (inspect.signature(getattr(owner, each)).parameters for each in (name, twin))
    assert one == other
