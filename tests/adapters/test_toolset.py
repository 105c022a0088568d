"""The toolset that every adapter uses, without a framework."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greenroom import EngineUnavailable, InvalidRequest, Output, SessionPool, StreamText, adapters
from greenroom.adapters import CODE_TOOLS, TOOLS, ToolAnswer, Toolset, describe_tools
from greenroom.models import ContainerType, Execution
from greenroom.testing import ScriptedBackend, scripted_pool

TWINS = [name for name in adapters.__all__ if f"a{name}" in adapters.__all__]


@pytest.fixture
def backend() -> ScriptedBackend:
    return ScriptedBackend()


@pytest.fixture
def pool(backend: ScriptedBackend) -> Iterator[SessionPool]:
    with scripted_pool(backend) as pool:
        yield pool


def toolset(pool: SessionPool, **options: Any) -> Toolset:
    return Toolset("framework", "Name it.", pool=pool, **options)


def test_a_toolset_has_the_tools_that_can_work(pool: SessionPool, tmp_path: Path) -> None:
    assert toolset(pool, uploads=tmp_path, background=True, reset=True).names == tuple(TOOLS)
    assert toolset(pool).names == ("run_python", "list_files", "read_file", "download_file")
    assert toolset(pool, session_per_call=True).names == ("run_python",)


@pytest.mark.parametrize("container_type", CODE_TOOLS)
async def test_the_tool_that_runs_code_follows_the_container_type(container_type: ContainerType) -> None:
    code = CODE_TOOLS[container_type]
    backend = ScriptedBackend(container_type)
    with scripted_pool(backend) as pool:
        for tools in (toolset(pool), Toolset("framework", "Name it.", session=pool.session())):
            assert tools.code_tool == tools.names[0] == code.name
            others = {tool.name for tool in CODE_TOOLS.values()} - {code.name}
            assert not others & {*tools.names}
            arguments: dict[str, Any] = {code.parameter: "1"}
            answer = await tools.acall("ann", code.name, **arguments)
            assert answer == tools.call("ann", code.name, **arguments)
            assert answer.text == "stdout:\nran"
            wrong = tools.call("ann", code.name, source="1")
            assert wrong.text == f"The argument of {code.name} must be '{code.parameter}', not 'source'."
            for other in others:
                with pytest.raises(InvalidRequest, match=f"must be one of {code.name}, .*, not '{other}'"):
                    tools.call("ann", other, code="1")
    assert backend.codes == ["1"] * 4


def test_no_other_language_is_in_the_texts_of_a_container_type() -> None:
    words = {"PythonLTS": {"Python"}, "NodeLTS": {"JavaScript", "Node.js"}, "Shell": {"bash"}}
    for container_type, own in words.items():
        described = describe_tools(ContainerType(container_type))
        text = " ".join([*described.values(), CODE_TOOLS[ContainerType(container_type)].parameter_description])
        assert {word for each in words.values() for word in each if word in text} == own


@pytest.mark.parametrize("options", [{}, {"session_per_call": True}, {"uploads": "/"}])
def test_a_pool_of_custom_containers_is_refused(options: dict[str, Any]) -> None:
    with scripted_pool(ScriptedBackend(ContainerType.CUSTOM_CONTAINER)) as pool:
        with pytest.raises(InvalidRequest, match=r"must be of type PythonLTS, NodeLTS, Shell, not CustomContainer: .*"):
            toolset(pool, **options)
        with pytest.raises(InvalidRequest, match=r"session\.request\("):
            Toolset("framework", "Name it.", session=pool.session())


def test_descriptions_follow_the_options(pool: SessionPool) -> None:
    assert {name: toolset(pool).describe(name) for name in TOOLS} == TOOLS
    assert "the names of its figures" in toolset(pool, images=False).describe("run_python")
    assert "Each call starts afresh" in toolset(pool, session_per_call=True).describe("run_python")


async def test_both_ways_of_calling_return_the_same_answer(pool: SessionPool) -> None:
    tools = toolset(pool)
    answers = [tools.call("ann", "run_python", code="1"), await tools.acall("ann", "run_python", code="1")]
    assert answers == [ToolAnswer("stdout:\nran", Execution("1", "succeeded", stdout="ran\n"))] * 2
    assert not answers[0].failed


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("run_python", {"code": ""}),
        ("run_python", {"code": 1}),
        ("run_python", {}),
        ("run_python", {"code": "1", "timeout": 900}),
        ("read_file", {"path": "a.txt", "limit": 1 << 40}),
        ("read_file", {"path": "missing.txt"}),
        ("list_files", {"path": "."}),
        ("upload_file", {"name": "sales.csv", "uploads": "/etc"}),
        ("download_file", {"path": None}),
    ],
)
async def test_invalid_arguments_are_retryable(
    pool: SessionPool, backend: ScriptedBackend, tmp_path: Path, tool: str, arguments: dict[str, Any]
) -> None:
    tools = toolset(pool, uploads=tmp_path)
    for answer in (tools.call("ann", tool, **arguments), await tools.acall("ann", tool, **arguments)):
        assert answer.failed
        assert isinstance(answer.artifact, adapters.RETRYABLE)
        assert answer.text == str(answer.artifact)
    assert backend.runs == []


async def test_a_tool_that_is_not_offered_is_refused(pool: SessionPool) -> None:
    for tool in ("upload_file", "rm", ""):
        with pytest.raises(InvalidRequest, match=f"must be one of run_python, .*, not '{tool}'"):
            toolset(pool).call("ann", tool)
        with pytest.raises(InvalidRequest, match="must be one of"):
            await toolset(pool).acall("ann", tool)


async def test_other_errors_are_raised(pool: SessionPool, backend: ScriptedBackend) -> None:
    backend.answer = EngineUnavailable("Start Docker.")
    with pytest.raises(EngineUnavailable):
        toolset(pool).call("ann", "run_python", code="1")
    with pytest.raises(EngineUnavailable):
        await toolset(pool).acall("ann", "run_python", code="1")


async def test_on_output_can_be_a_plain_or_an_asynchronous_function(pool: SessionPool) -> None:
    pieces: list[StreamText | Output] = []

    async def collect(output: StreamText | Output) -> None:
        pieces.append(output)

    tools = toolset(pool)
    tools.call("ann", "run_python", on_output=pieces.append, code="1")
    await tools.acall("ann", "run_python", on_output=pieces.append, code="1")
    await tools.acall("ann", "run_python", on_output=collect, code="1")
    assert pieces == [StreamText("stdout", "ran\n")] * 3
    with pytest.raises(TypeError, match="must be a plain function"):
        tools.call("ann", "run_python", on_output=collect, code="1")


@pytest.mark.parametrize("name", TWINS)
def test_twins_have_equal_signatures(name: str) -> None:
    assert inspect.signature(getattr(adapters, name)) == inspect.signature(getattr(adapters, f"a{name}"))


def test_each_method_has_an_asynchronous_twin() -> None:
    code = {"run_code", "start_code", "look_at_code", "stop_code"}
    files = {"list_files", "read_file", "download_file", "upload_file"}
    assert set(TWINS) == code | files | {"reset_session", "default_pool", "end_run"}
    assert inspect.signature(Toolset.call) == inspect.signature(Toolset.acall)


@pytest.mark.parametrize("option", ["pool", "session"])
def test_an_option_that_is_not_a_pool_is_refused_immediately(option: str) -> None:
    wrong: Any = {option: "docker:"}
    with pytest.raises(InvalidRequest, match=rf"The {option} must be a Session.* of greenroom\.connect.*not 'docker:'"):
        Toolset("scope", "advice", **wrong)
