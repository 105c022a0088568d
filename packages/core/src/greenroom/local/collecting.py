"""Collect the output of one execution, within its limits."""

from __future__ import annotations

import asyncio
import codecs
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from greenroom.backend import OnEvent
from greenroom.local.decoding import (
    decode_command_end,
    decode_error,
    decode_exit_code,
    decode_files,
    decode_output,
    decode_shown_error,
    decode_timeout,
    mapping,
    number,
    off_loop,
    output_weight,
    parse_json,
)
from greenroom.models import (
    Execution,
    ExecutionError,
    NotCarried,
    Output,
    PackagesFrom,
    Place,
    RestartCause,
    Status,
    StreamText,
)
from greenroom.runner.protocol import MAX_ENDING, MAX_NAME, MAX_OUTPUTS, Frame, FrameError


@dataclass(frozen=True, slots=True)
class ExecutionLimits:
    """The limits of one execution: seconds, and bytes of text and of rich outputs; and facts for its messages."""

    timeout: float
    grace: float
    text: int
    display: int
    packages_from: PackagesFrom | None = None
    """How packages can be added to the pool."""


class _Text:
    """One stream as it arrives: pieces of UTF-8 that can break anywhere.

    It is stored as bytes, since one `str` per small piece would take fifty times the memory.
    """

    def __init__(self) -> None:
        self._data = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.length = 0
        """The number of complete characters."""

    def add(self, data: bytes) -> str:
        """The characters that are complete with these bytes."""
        self._data += data
        text = self._decoder.decode(data)
        self.length += len(text)
        return text

    def mark(self) -> tuple[int, int]:
        """The complete part: bytes and characters."""
        held, _ = self._decoder.getstate()  # the beginning of an incomplete character belongs to what follows
        return len(self._data) - len(held), self.length

    def cut(self, mark: tuple[int, int]) -> None:
        """Discard everything since then."""
        held, _ = self._decoder.getstate()
        size, self.length = mark
        self._data[size:] = held

    def __str__(self) -> str:
        return self._data.decode("utf-8", "replace")


@dataclass(slots=True)
class _Shown:
    """A rich output, which an update can replace."""

    output: Output


class _Mark(NamedTuple):
    """The amounts at one moment: bytes and characters of text, outputs, positions, names of displays."""

    stdout: tuple[int, int]
    stderr: tuple[int, int]
    outputs: int
    places: int
    names: int


_START = _Mark((0, 0), (0, 0), 0, 0, 0)


class Collector:
    """A running execution."""

    def __init__(
        self,
        limits: ExecutionLimits,
        on_event: OnEvent | None,
        restarted: RestartCause | None = None,
        *,
        command: bool = False,
    ) -> None:
        self._is_command = command
        self._restarted: RestartCause | None = restarted
        self.id = uuid.uuid4().hex
        self.limits = limits
        self.on_event = on_event
        self.began = time.monotonic()
        self.done: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self.texts = {"stdout": _Text(), "stderr": _Text()}
        self.outputs: list[_Shown] = []
        self.places: list[Place] = []
        self.ending: int | None = None  # the position of the error that seems to have ended the code
        self.displays: dict[str, _Shown] = {}
        self.names: list[str] = []  # of the displays, in order
        self.updates: dict[str, Output] = {}  # for displays of earlier executions, which have already been returned
        self.text_left = limits.text
        self.display_left = limits.display
        self.places_left = MAX_OUTPUTS
        self.clear_pending = False
        self.beginning = _START
        """The point to which `clear` returns."""
        self.not_carried: tuple[NotCarried, ...] = ()
        """What the session lacks because it is a copy."""
        self.state_was_lost = False
        """Whether the session lost its variables before, and no execution has reported it yet."""
        self.used: Mapping[str, Any] = {}
        """What it has used, by the names of an execution's fields."""

    def add_text(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        self._clear_if_pending()
        if not 0 < len(data) <= self.text_left:
            raise FrameError("more text than allowed, or none")
        self.text_left -= len(data)
        if (text := self.texts[stream].add(data)) and self.on_event:
            self.on_event(StreamText(stream, text))

    async def add_output(self, header: dict[str, Any], body: bytes) -> None:
        display_id, update = header.get("display_id"), header.get("update") is True
        if isinstance(display_id, str) and len(display_id) > MAX_NAME:
            raise FrameError("the ID of a display is too long")
        if not update:  # an update does not add an output
            self._clear_if_pending()
        cost = await off_loop(body, lambda: output_weight(body, self.display_left))
        if cost > self.display_left or (not update and not self.places_left):
            raise FrameError("more output than allowed")
        self.display_left -= cost
        output = await off_loop(body, lambda: decode_output(header, body))
        shown = self.displays.get(display_id) if isinstance(display_id, str) else None
        if shown is not None:  # every display with that name shows it now
            shown.output = output
        elif update:
            if isinstance(display_id, str):
                self.updates[display_id] = output
            return
        else:
            shown = _Shown(output)
            if isinstance(display_id, str):
                self.displays[display_id] = shown
                self.names.append(display_id)
        if not update:
            self.places_left -= 1
            self._place(output=len(self.outputs))
            self.outputs.append(shown)
        if self.on_event:
            self.on_event(output)

    async def add_error(self, header: dict[str, Any], body: bytes) -> None:
        """Add an error that the code shows. It also becomes text, unless it has ended the code."""
        self._clear_if_pending()
        if len(body) > self.text_left or not self.places_left:
            raise FrameError("more errors than allowed")
        self.text_left -= len(body)
        self.places_left -= 1
        error = await off_loop(body, lambda: decode_shown_error(parse_json(body, MAX_ENDING)))
        if header.get("ends") is not True:
            self._place(error=error, text=error.traceback)
            return
        self._repeat_ending()
        self.ending = len(self.places)
        self._place(error=error)

    def _place(self, *, output: int | None = None, error: ExecutionError | None = None, text: str = "") -> None:
        """Record a position in the output, followed by the text of an error."""
        stdout, stderr = self.texts["stdout"].length, self.texts["stderr"].length
        if text:
            text = self.texts["stderr"].add(f"{text}\n".encode())
            if self.on_event:
                self.on_event(StreamText("stderr", text))
        self.places.append(Place(stdout, stderr, output, error, len(text)))

    def _repeat_ending(self) -> None:
        """Turn the error that seemed to have ended the code into text."""
        if self.ending is not None and (error := self.places[self.ending].error) is not None:
            self._place(text=error.traceback)

    def clear(self, *, wait: bool) -> None:
        """Discard the output so far, now or with the next output, as `clear_output` requires."""
        self.clear_pending = True
        if not wait:
            self._clear_if_pending()

    def area(self, *, begins: bool) -> None:
        """Begin or end an area: within it, `clear` discards only the area's own output."""
        if begins:
            self._clear_if_pending()
            self.beginning = self._here()
        else:
            self.clear_pending = False
            self.beginning = _START

    def _here(self) -> _Mark:
        stdout, stderr = (text.mark() for text in self.texts.values())
        return _Mark(stdout, stderr, len(self.outputs), len(self.places), len(self.names))

    def _clear_if_pending(self) -> None:
        if not self.clear_pending:
            return
        self.clear_pending = False
        back = self.beginning
        for text, mark in zip(self.texts.values(), (back.stdout, back.stderr), strict=True):
            text.cut(mark)
        del self.outputs[back.outputs :]
        del self.places[back.places :]
        for name in self.names[back.names :]:
            self.displays.pop(name, None)  # code can use a name twice
        del self.names[back.names :]
        if self.ending is not None and self.ending >= back.places:
            self.ending = None
        if back is _START:
            self.places_left = MAX_OUTPUTS

    async def finish(self, *, timed_out: bool) -> Execution:
        """The execution, after the runner reported its end.

        Raises:
            FrameError: the report violates the protocol.
        """
        header, body = self.done.result()
        fields = await off_loop(body, lambda: mapping(parse_json(body, MAX_ENDING)))
        exit_code = None
        if self._is_command:
            exit_code = None if timed_out else decode_exit_code(header)
            error = decode_command_end(header, self.limits.timeout if timed_out else None)
        elif timed_out:
            error = decode_timeout(header, fields, self.limits.timeout)
        else:
            error = decode_error(header, fields)
        return self._told(
            status="timed_out" if timed_out else "succeeded" if error is None else "failed",
            error=error,
            duration=number(header, "duration"),
            files=tuple(decode_files(fields.get("files"))),
            files_omitted=int(number(header, "files_omitted")),
            state_lost=self._restarted is not None
            or self.state_was_lost
            or "crash" in header
            or header.get("state_lost") is True,
            truncated=int(number(header, "truncated")),
            exit_code=exit_code,
        )

    def cancelled(self) -> Execution:
        """The execution so far, after its caller cancelled it."""
        error = ExecutionError("CancelledError", "The execution was cancelled.")
        return self._told(status="cancelled", error=error, duration=time.monotonic() - self.began)

    def _told(self, *, status: Status, error: ExecutionError | None, **ending: Any) -> Execution:
        ended = None if self.ending is None else self.places[self.ending].error
        if self.ending is not None and ended is not None and error is not None and error.traceback == ended.traceback:
            self.places[self.ending] = replace(self.places[self.ending], error=error)
        else:
            self._repeat_ending()
            self._place(error=error)
        outputs = tuple(shown.output for shown in self.outputs)
        execution = Execution(
            id=self.id,
            status=status,
            stdout=str(self.texts["stdout"]),
            stderr=str(self.texts["stderr"]),
            error=error,
            places=tuple(self.places),
            result=next((output.text for output in reversed(outputs) if output.is_result), None),
            outputs=outputs,
            updates=tuple(self.updates.values()),
            session_restarted=self._restarted,
            packages_from=self.limits.packages_from,
            not_carried=self.not_carried,
            **self.used,
            **ending,
        )
        if self.on_event:
            self.on_event(execution)
        return execution
