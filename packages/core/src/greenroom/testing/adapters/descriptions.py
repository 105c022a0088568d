"""Tests of the tools' descriptions for models."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenroom.adapters import CODE_TOOLS, describe_tools, offered_tools
from greenroom.models import ContainerType
from greenroom.sessions import SessionPool
from greenroom.testing.adapters.base import AdapterSuiteBase
from greenroom.testing.adapters.driver import AdapterDriver
from greenroom.testing.scripted import ScriptedBackend, scripted_pool


class DescriptionTests(AdapterSuiteBase):
    """The tools, their descriptions and their parameters."""

    def _described(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> dict[str, str]:
        """The descriptions of the tools if only an upload directory is given."""
        described = describe_tools(container_type, figures_seen=self.driver.shows_figures)
        return {name: described[name] for name in offered_tools(container_type, uploads=True)}

    def test_the_tools_are_the_same_in_every_framework(self, adapter: AdapterDriver) -> None:
        told = {name: tool.text for name, tool in adapter.tools().items()}
        assert told == self._described()

    def test_no_schema_leaks_internal_parameters(self, adapter: AdapterDriver) -> None:
        assert {name: set(tool.parameters) for name, tool in adapter.tools().items()} == {
            "run_python": {"code"},
            "list_files": {"directory"},
            "read_file": {"path"},
            "download_file": {"path"},
            "upload_file": {"name"},
        }
        for tool in adapter.tools().values():
            for schema in tool.parameters.values():
                assert schema["type"] == "string"
                assert schema["description"]

    def test_tools_that_cannot_work_are_not_offered(self, pool: SessionPool, uploads: Path) -> None:
        assert set(self.driver(pool=pool).tools()) == {*offered_tools()}
        assert set(self.driver(pool=pool, session_per_call=True).tools()) == {"run_python"}
        with pytest.raises(ValueError, match="cannot be combined with uploads"):
            self.driver(pool=pool, session_per_call=True, uploads=uploads)

    def test_the_description_states_whether_variables_are_kept(self, adapter: AdapterDriver, pool: SessionPool) -> None:
        assert "are kept from call to call" in adapter.tools()["run_python"].text
        text = self.driver(pool=pool, session_per_call=True).tools()["run_python"].text
        assert "Each call starts afresh" in text
        assert "are kept from" not in text

    @pytest.mark.parametrize("container_type", CODE_TOOLS)
    def test_the_tool_that_runs_code_is_that_of_the_container_type(
        self, container_type: ContainerType, uploads: Path
    ) -> None:
        code = CODE_TOOLS[container_type]
        seen = self.driver.shows_figures
        with scripted_pool(ScriptedBackend(container_type)) as pool:
            tools = self.driver(pool=pool, uploads=uploads).tools()
            assert {name: tool.text for name, tool in tools.items()} == self._described(container_type)
            for options in ({"pool": pool, "session_per_call": True}, {"session": pool.session()}):
                kept = "session" in options
                tool = self.driver(**options).tools()[code.name]
                assert tool.text == code.describe(state_kept=kept, figures_seen=seen)
                assert [(name, schema["description"]) for name, schema in tool.parameters.items()] == [
                    (code.parameter, code.parameter_description)
                ]

    def test_a_pool_whose_sandboxes_run_no_code_is_refused(self) -> None:
        with scripted_pool(ScriptedBackend(ContainerType.CUSTOM_CONTAINER)) as pool:
            for options in ({"pool": pool}, {"pool": pool, "session_per_call": True}, {"session": pool.session()}):
                with pytest.raises(
                    ValueError, match=r"PythonLTS, NodeLTS, Shell, not CustomContainer.*session\.request"
                ):
                    self.driver(**options)
