"""LangChain's own standard tests, for each of the tools."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from langchain_core.tools import BaseTool
from langchain_tests.integration_tests import ToolsIntegrationTests
from langchain_tests.unit_tests import ToolsUnitTests

from greenroom import Session, SessionPool
from langchain_greenroom import GreenroomTool
from langchain_greenroom.files import DownloadFileTool, ListFilesTool, ReadFileTool, UploadFileTool


class Standard:
    """A subject of the suites: a tool and the arguments of a call."""

    constructor: ClassVar[type[BaseTool]]
    arguments: ClassVar[dict[str, str]]
    options: dict[str, Any]

    @property
    def tool_constructor(self) -> type[BaseTool]:
        return self.constructor

    @property
    def tool_constructor_params(self) -> dict[str, Any]:
        return self.options

    @property
    def tool_invoke_params_example(self) -> dict[str, str]:
        return self.arguments


class RunPython(Standard):
    constructor = GreenroomTool
    arguments: ClassVar[dict[str, str]] = {"code": "1 + 1"}


class ListFiles(Standard):
    constructor = ListFilesTool
    arguments: ClassVar[dict[str, str]] = {"directory": "/mnt/data"}


class ReadFile(Standard):
    constructor = ReadFileTool
    arguments: ClassVar[dict[str, str]] = {"path": "sales.csv"}


class DownloadFile(Standard):
    constructor = DownloadFileTool
    arguments: ClassVar[dict[str, str]] = {"path": "sales.csv"}


class UploadFile(Standard):
    constructor = UploadFileTool
    arguments: ClassVar[dict[str, str]] = {"name": "sales.csv"}


class Unit(ToolsUnitTests):
    @pytest.fixture(autouse=True)
    def _over_a_scripted_pool(self, pool: SessionPool, tmp_path: Path) -> None:
        uploads = {"uploads": tmp_path} if self.tool_constructor is UploadFileTool else {}
        self.options = {"pool": pool, **uploads}


class Integration(ToolsIntegrationTests):
    @pytest.fixture
    def session(self, sandboxes: SessionPool) -> Iterator[Session]:
        with sandboxes.session() as session:
            session.upload(b"month,sales\n1,10\n", "sales.csv")
            yield session

    @pytest.fixture(autouse=True)
    def _over_a_sandbox(self, session: Session, tmp_path: Path) -> None:
        (tmp_path / "sales.csv").write_text("month,sales\n1,10\n")
        uploads = {"uploads": tmp_path} if self.tool_constructor is UploadFileTool else {}
        self.options = {"session": session, **uploads}


class TestRunPythonUnit(RunPython, Unit): ...


class TestRunPythonIntegration(RunPython, Integration): ...


class TestListFilesUnit(ListFiles, Unit): ...


class TestListFilesIntegration(ListFiles, Integration): ...


class TestReadFileUnit(ReadFile, Unit): ...


class TestReadFileIntegration(ReadFile, Integration): ...


class TestDownloadFileUnit(DownloadFile, Unit): ...


class TestDownloadFileIntegration(DownloadFile, Integration): ...


class TestUploadFileUnit(UploadFile, Unit): ...


class TestUploadFileIntegration(UploadFile, Integration): ...
