"""An execution as lines, sent as they are produced. Each is empty, or a JSON object with a `type`:

- `text`, `output`: an event of the running code;
- `call`, `withdraw`: the code calls a tool, or no longer waits for the answer, which is sent as a separate request;
- `made`: a call that ended before this response; `resumed`: all such calls, and those that wait, have been sent;
- `waiting`: the session runs other code first; an empty line: the code is running without output;
- `part`: a part of the execution, if its last line would be too large; a rich output that was already sent as an event
  is referred to by its number, from 0, among the rich outputs that were events of this response;
- `end`: the execution, without what the parts contained; or `error`: an exception.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from greenroom.config.environment import Environment
from greenroom.errors import GreenroomError
from greenroom.models import Execution, Output, StreamText
from greenroom.tools import ToolLimits, ToolStub
from greenroom.wire.problems import decode_error, encode_error
from greenroom.wire.values import Json, WireError, decode, decode_as, encode, parse

Line: TypeAlias = dict[str, Json]

KEEP_ALIVE = b"\n"
WAITING: Line = {"type": "waiting"}

_MAX_TEXT = 64 << 20
"""Characters of an execution and of its events: the most that a local pool can be set to."""
_MAX_REST = 96 << 20
"""Bytes of memory of everything else in an execution and its events: more than twice what a local pool allows."""
MAX_LINE = 64 << 20
"""Bytes of one line."""
MAX_LINES = 1 << 30
"""Bytes of all lines: JSON takes six for some characters. They are counted, but never stored together."""
_PIECE = 64 << 10
"""Characters of text in one line."""

_TEXTS = ("stdout", "stderr", "result")
_BUNDLES = ("outputs", "updates")


@dataclass(frozen=True, slots=True)
class Order:
    """A request to execute code or a command."""

    id: str
    """Chosen by the client, which can then cancel the execution before the response begins."""
    code: str = ""
    command: tuple[str, ...] = ()
    """For a shell, instead of code: a command text, or with `is_program` a program and its arguments."""
    is_program: bool = False
    stdin: bytes = b""
    """The command's standard input."""
    env: Environment = field(default_factory=Environment)
    timeout: float | None = None
    """Seconds; `None` for the pool's own limit, infinity for no limit."""
    stream: bool = False
    """Whether to send events."""
    background: bool = False
    """Whether the execution continues if its connection breaks, and is kept for a while after its end."""
    tools: tuple[ToolStub, ...] = ()
    """The client's functions that the code can call."""
    tool_limits: ToolLimits | None = None


NOT_WAITING = "CallNotWaiting"
"""The error code of an answer to a call that does not wait for one."""


@dataclass(frozen=True, slots=True)
class Called:
    """A call that waits for its answer."""

    call: int
    tool: str
    arguments: bytes
    """A JSON object, as the code sent it."""
    most: int
    """The maximum size of its result in bytes."""
    key: str = ""
    """Required in the answer: only the client that receives the execution can answer its calls."""
    again: bool = False
    """Whether a client received it before, and neither answered nor deferred it."""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """A call that no longer waits."""

    call: int


@dataclass(frozen=True, slots=True)
class Made:
    """A call that ended before this client received the execution."""

    call: int
    tool: str
    arguments: bytes
    failed: bool


@dataclass(frozen=True, slots=True)
class Resumed:
    """All earlier calls have been sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A request that answers a call."""

    call: int
    key: str
    content: bytes
    """The result as JSON or, if the call failed, a message."""
    failed: bool = False
    deferred: bool = False
    """Whether the client does not handle the call now: it waits for the next client."""
    refused: bool = False
    """Whether the call failed before anything was called."""


CallEvent: TypeAlias = Called | Withdrawn | Made | Resumed
_CALL_EVENTS: dict[str, type[CallEvent]] = {"call": Called, "withdraw": Withdrawn, "made": Made, "resumed": Resumed}
_CALL_TYPES = {kind: name for name, kind in _CALL_EVENTS.items()}


def event_lines(event: StreamText | Output | CallEvent) -> Generator[Line, None, None]:
    """Yield the lines of an event."""
    if isinstance(event, CallEvent):
        yield {"type": _CALL_TYPES[type(event)], **encode(event)}
    elif isinstance(event, StreamText):
        for start in range(0, len(event.text), _PIECE):
            yield {"type": "text", "stream": event.stream, "text": event.text[start : start + _PIECE]}
    else:
        yield {"type": "output", **encode(event)}


def execution_lines(execution: Execution, shown: Sequence[Output] = ()) -> Generator[Line, None, None]:
    """Yield the lines of an execution that has ended; `shown` are its rich outputs that were sent as events."""
    numbers = {id(output): number for number, output in enumerate(shown)}
    rest: Line = {}
    for each in dataclasses.fields(execution):
        name, value = each.name, getattr(execution, each.name)
        if name in _BUNDLES:
            for output in value:
                number = numbers.get(id(output))
                yield {"type": "part", "of": name, **(encode(output) if number is None else {"event": number})}
        elif name in _TEXTS and value is not None and len(value) > _PIECE:
            for start in range(0, len(value), _PIECE):
                yield {"type": "part", "of": name, "text": value[start : start + _PIECE]}
        else:
            rest[name] = encode(value)
    yield {"type": "end", "execution": rest}


def error_line(error: GreenroomError) -> Line:
    return {"type": "error", "error": encode_error(error)}


class Assembler:
    """Reads the lines of one execution, within limits."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {name: [] for name in _TEXTS}
        self._bundles: dict[str, list[Output]] = {name: [] for name in _BUNDLES}
        self._shown: list[Output] = []
        self._of_events, self._of_parts = _Limits(), _Limits()
        self.waits = False
        """Whether the execution waits for its session, as far as known."""

    def add(self, content: bytes) -> StreamText | Output | CallEvent | Execution | None:
        """Return the event in a line, or the whole execution from the last line.

        Raises:
            WireError: the line has another form, or there is too much data.
            GreenroomError: the line is an error.
        """
        if not content:
            return None
        line, weight = parse(content, _MAX_REST)
        self.waits = line.get("type") == "waiting"
        match line.get("type"):
            case "text":
                self._of_events.count_text(line)
                return decode(StreamText, line)
            case "output":
                self._of_events.count(weight)
                output = decode(Output, line)
                self._shown.append(output)
                return output
            case "call" | "withdraw" | "made" | "resumed" as kind:
                return decode(_CALL_EVENTS[kind], line)
            case "part":
                self._add_part(line, weight)
                return None
            case "end":
                self._of_parts.count(weight)
                return self._end(decode_as(Mapping[str, Any], line.get("execution"), "execution"))
            case "error":
                raise decode_error(line.get("error"))
            case _:
                return None

    def _add_part(self, line: Line, weight: int) -> None:
        name = line.get("of")
        if name in _TEXTS:
            self._of_parts.count_text(line)
            self._texts[name].append(line["text"])
        elif name in _BUNDLES:
            self._of_parts.count(weight)
            self._bundles[name].append(self._shown_at(line["event"]) if "event" in line else decode(Output, line))

    def _shown_at(self, number: Json) -> Output:
        """Return the rich output that was an event: the same object, as in a local pool."""
        if not isinstance(number, int) or not 0 <= number < len(self._shown):
            raise WireError(f"the number of an event must be that of an earlier event, not {number!r:.50}")
        return self._shown[number]

    def _end(self, fields: Mapping[str, Json]) -> Execution:
        texts = {name: "".join(pieces) for name, pieces in self._texts.items() if pieces}
        others = {name: value for name, value in fields.items() if name not in _BUNDLES}
        execution = decode(Execution, {**others, **texts})
        outputs, updates = (tuple(self._bundles[name]) for name in _BUNDLES)
        return dataclasses.replace(execution, outputs=outputs, updates=updates)


class _Limits:
    """How much more data can be accepted."""

    def __init__(self) -> None:
        self._text, self._rest = _MAX_TEXT, _MAX_REST

    def count_text(self, line: Line) -> None:
        text = line.get("text")
        if not isinstance(text, str):
            raise WireError(f"the text of a line must be str, not {type(text).__name__}")
        self._text -= len(text)
        if self._text < 0:
            raise WireError(f"the text of an execution must have at most {_MAX_TEXT} characters")

    def count(self, weight: int) -> None:
        self._rest -= weight
        if self._rest < 0:
            raise WireError(f"the outputs of an execution must take at most {_MAX_REST} bytes")
