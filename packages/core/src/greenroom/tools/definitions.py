"""Tools as the application defines them: callables, or schemas with a handler."""

from __future__ import annotations

import builtins
import dataclasses
import functools
import inspect
import keyword
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NotRequired, Required, TypeAlias, cast, get_type_hints
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ConfigDict, PydanticUserError, TypeAdapter, ValidationError, with_config
from pydantic.errors import PydanticInvalidForJsonSchema
from typing_extensions import TypedDict  # pydantic accepts that of typing only from Python 3.12

from greenroom.errors import InvalidRequest
from greenroom.runner.protocol import MAX_TOOL_NAME
from greenroom.tools.effort import TooMuchWork, effort_check
from greenroom.tools.schemas import ArgumentsRefused, schema_check
from greenroom.tools.stubs import ToolStub, described, stub_of
from greenroom.untrusted import brief

_MOST_TOOLS = 128
_TAKEN = frozenset({*dir(builtins), "ToolError", "display", "get_ipython", "exit", "quit"})
_MOST_EXPLAINED = 5


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool with a schema instead of annotations, like the tools of frameworks and MCP servers."""

    name: str
    """A Python identifier: the name of the function that code calls."""
    description: str
    """The function's docstring."""
    parameters: Mapping[str, Any] | type[BaseModel]
    """A JSON schema of an object, or a pydantic model. Arguments are validated with it before the handler is called."""
    handler: Callable[[dict[str, Any]], Any]
    """Called with the arguments as JSON values; returns a JSON value. It can be asynchronous."""
    returns: Mapping[str, Any] | None = None
    """A JSON schema of the result, for the function's signature."""


@dataclass(frozen=True, slots=True)
class ToolLimits:
    """Limits on the calls of one execution."""

    calls: int = 1_000
    """The maximum number of calls."""
    concurrent: int = 64
    """How many the application handles at the same time; others wait for their turn."""
    argument_bytes: int = 16 << 20
    """Bytes of all arguments together, as JSON."""
    result_bytes: int = 64 << 20
    """Bytes of all results together, as JSON."""
    timeout: float = 60
    """Seconds until a call fails, from the moment the application gets it."""
    total_timeout: float = 600
    """Seconds in total for which the execution's own time limit is suspended while the application works on calls."""
    parked_timeout: float = 86_400
    """Seconds in total for which calls can wait while nothing works on them, for example for a person's approval."""

    def __post_init__(self) -> None:
        for each in dataclasses.fields(self):
            value: object = getattr(self, each.name)
            whole = not each.name.endswith("timeout")
            kind = int if whole else int | float
            if isinstance(value, bool) or not isinstance(value, kind) or math.isnan(value) or value <= 0:
                number = "whole number" if whole else "number of seconds"
                raise InvalidRequest(f"The {each.name} of tools must be a positive {number}, not {brief(value)}.")


ToolLike: TypeAlias = Tool | Callable[..., Any]
"""A tool: a function with annotations and a docstring, synchronous or not; or a `Tool`."""


@dataclass(frozen=True, slots=True)
class Definition:
    """A tool that is ready to be called."""

    stub: ToolStub
    bind: Callable[[dict[str, Any]], Callable[[], Any]]
    """Validates arguments, and returns a callable that calls the application with them; raises `ArgumentsRefused`."""
    is_async: bool
    result: TypeAdapter[Any] | None = None
    """Converts results to JSON, by the function's annotation."""


def definitions_of(tools: Iterable[ToolLike]) -> dict[str, Definition]:
    """Return tools by name.

    Raises:
        InvalidRequest: one cannot be a function in a session.
        EngineUnavailable: one has a JSON schema, and the package that checks it is missing.
    """
    given: Any = tools
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise InvalidRequest(
            f"The tools must be a list of functions or of greenroom.Tool, not {brief(cast('object', given))}."
        )
    found: dict[str, Definition] = {}
    for tool in tools:
        definition = _of_schema(tool) if isinstance(tool, Tool) else _of_callable(tool)
        name = definition.stub.name
        if name in found:
            raise InvalidRequest(f"The tools must have different names, not {name!r} twice.")
        found[name] = definition
        if len(found) > _MOST_TOOLS:
            raise InvalidRequest(f"There must be at most {_MOST_TOOLS} tools.")
    described(each.stub for each in found.values())  # checks their size
    return found


def check_name(name: object) -> str:
    """Return the name of a tool if a function in a session can have it.

    Raises:
        InvalidRequest: it cannot.
    """
    if not isinstance(name, str) or not name.isidentifier() or not name.isascii() or len(name) > MAX_TOOL_NAME:
        raise InvalidRequest(
            f"The name of a tool must be an ASCII Python identifier with at most {MAX_TOOL_NAME} characters, not "
            f"{brief(name)}. Give another with greenroom.Tool(name=…)."
        )
    if keyword.iskeyword(name) or name in _TAKEN or name.startswith("_"):
        raise InvalidRequest(
            f"The name of a tool must not shadow a Python builtin or begin with an underscore, as {name!r} does. Give "
            "it another with greenroom.Tool(name=…)."
        )
    return name


# Schemas


def _of_schema(tool: Tool) -> Definition:
    name = check_name(tool.name)
    if not isinstance(tool.description, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The description of the tool {name!r} must be str, not {brief(tool.description)}.")
    if not callable(tool.handler):
        raise InvalidRequest(f"The handler of the tool {name!r} must be callable, not {brief(tool.handler)}.")
    parameters: Any = tool.parameters
    if isinstance(parameters, type) and issubclass(parameters, BaseModel):
        adapter: TypeAdapter[Any] = TypeAdapter(parameters)
        schema = adapter.json_schema()
        check = functools.partial(_validated, adapter, effort_check(adapter))
    elif isinstance(parameters, Mapping):
        schema = cast("Mapping[str, Any]", parameters)
        check = schema_check(name, schema)
    else:
        raise InvalidRequest(
            f"The parameters of the tool {name!r} must be a JSON schema or a pydantic model, not "
            f"{brief(cast('object', parameters))}."
        )

    def bind(arguments: dict[str, Any]) -> Callable[[], Any]:
        check(arguments)
        return functools.partial(tool.handler, arguments)

    stub = stub_of(name, tool.description, schema, tool.returns)
    return Definition(stub, bind, _is_async(tool.handler))


def _validated(adapter: TypeAdapter[Any], check_effort: Callable[[Any], None] | None, arguments: dict[str, Any]) -> Any:
    try:
        if check_effort is not None:
            check_effort(arguments)
    except TooMuchWork:
        raise ArgumentsRefused(
            "they are nested too deeply for a union that contains itself: its members need a discriminator."
        ) from None
    try:
        return adapter.validate_python(arguments)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_context=False)
        texts = [
            f"{'.'.join(map(str, each['loc']))}: {each['msg']}" + ("" if each["type"] == "missing" else _given(each))
            for each in problems[:_MOST_EXPLAINED]
        ]
        more = len(problems) - _MOST_EXPLAINED
        raise ArgumentsRefused("; ".join([*texts, f"{more} more"] if more > 0 else texts)) from None


def _given(problem: Any) -> str:
    return f", not {brief(problem['input'])}"


# Callables


@dataclass(frozen=True, slots=True)
class _Reading:
    """The facts of a function's signature, kept as they take a millisecond; without a reference to the function."""

    stub: ToolStub
    arguments: TypeAdapter[Any]
    check_effort: Callable[[Any], None] | None
    positional: tuple[str, ...]
    """Parameters that callers cannot name."""
    result: TypeAdapter[Any] | None


_readings: WeakKeyDictionary[Any, dict[bool, _Reading]] = WeakKeyDictionary()
"""By function, and whether it is a bound method."""


def _of_callable(function: Any) -> Definition:
    if not callable(function) or isinstance(function, type):
        raise InvalidRequest(f"A tool must be a function or a greenroom.Tool, not {brief(function)}.")
    key = getattr(function, "__func__", function)
    try:
        known = _readings.setdefault(key, {})
    except TypeError:  # a callable object without a hash, or without weak references
        known = {}
    is_method = key is not function
    reading = known.get(is_method)
    if reading is None:
        reading = known[is_method] = _read(function)

    def bind(arguments: dict[str, Any]) -> Callable[[], Any]:
        values = _validated(reading.arguments, reading.check_effort, arguments)
        first = [values.pop(each) for each in reading.positional if each in values]
        return functools.partial(function, *first, **values)

    return Definition(reading.stub, bind, _is_async(function), reading.result)


def _read(function: Any) -> _Reading:
    name = check_name(getattr(function, "__name__", None))
    try:
        signature = inspect.signature(function, eval_str=True)
    except (TypeError, ValueError, NameError) as error:
        raise InvalidRequest(f"The tool {name!r} must have a signature that can be read: {error}.") from None
    fields: dict[str, Any] = {}
    for each in signature.parameters.values():
        if each.kind in {each.VAR_POSITIONAL, each.VAR_KEYWORD}:
            raise InvalidRequest(f"The tool {name!r} must name each of its parameters, not take {each}.")
        kind = Any if each.annotation is each.empty else each.annotation
        fields[each.name] = Required[kind] if each.default is each.empty else NotRequired[kind]
    typed_dict: Any = TypedDict
    arguments_type: Any = with_config(ConfigDict(extra="forbid"))(typed_dict(f"Arguments of {name}", fields))
    returns, result = _of_result(name, signature)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(arguments_type)
        schema = adapter.json_schema()
    except (PydanticUserError, PydanticInvalidForJsonSchema, TypeError) as error:
        raise InvalidRequest(
            f"The parameters of the tool {name!r} must have types that JSON can represent: {str(error).splitlines()[0]}"
        ) from None
    parameters = signature.parameters.values()
    _add_defaults(schema, {each.name: each.default for each in parameters if each.default is not each.empty})
    stub = stub_of(name, inspect.getdoc(function) or "", schema, returns)
    positional = tuple(each.name for each in parameters if each.kind is each.POSITIONAL_ONLY)
    return _Reading(stub, adapter, effort_check(adapter), positional, result)


def _of_result(name: str, signature: inspect.Signature) -> tuple[Mapping[str, Any] | None, TypeAdapter[Any] | None]:
    """Return the JSON schema of a function's result and its serializer, if it is annotated."""
    if signature.return_annotation in {inspect.Signature.empty, Any}:
        return None, None
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(signature.return_annotation)
        return adapter.json_schema(mode="serialization"), adapter
    except (PydanticUserError, PydanticInvalidForJsonSchema, TypeError) as error:
        raise InvalidRequest(
            f"The result of the tool {name!r} must have a type that JSON can represent: {str(error).splitlines()[0]}"
        ) from None


def result_schema(function: Callable[..., Any] | None) -> Mapping[str, Any] | None:
    """Return the JSON schema of a function's result, for `Tool.returns`; `None` if its annotation has none.

    An annotation that JSON cannot represent is not an error here, as it is for a tool: a framework may have its own way
    to turn the result into text.
    """
    try:
        returned = get_type_hints(function).get("return", Any)
        return None if returned is Any else TypeAdapter(returned).json_schema(mode="serialization")
    except Exception:  # noqa: BLE001  the application's annotations can raise anything
        return None


def _add_defaults(schema: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Record defaults in a schema, for the signature that the code sees."""
    properties = schema.get("properties", {})
    for name, value in defaults.items():
        plain = value is None or isinstance(value, str | int | float | bool)
        properties[name] = {**properties[name], "default": value if plain else repr(value)[:100]}


def _is_async(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = cast("functools.partial[Any]", function).func
    call = getattr(function, "__call__", None)  # noqa: B004  of an object that is called
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
