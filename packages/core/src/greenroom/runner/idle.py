"""Output of earlier executions' code, such as a thread or a task, that arrives between executions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from .run import TEXT_PIECE, Run

_MAX_OUTPUTS = 100
_MAX_OUTPUT = 8 << 20  # bytes


class IdleOutput:
    """Keeps it for the next execution: the first 64 KiB of text, and 100 rich outputs with up to 8 MiB in total."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Drop everything."""
        self._kept: list[partial[None]] = []
        self._text_left = TEXT_PIECE
        self._outputs_left = _MAX_OUTPUTS
        self._output_left = _MAX_OUTPUT
        self._clear_pending = False

    def add_text(self, stream: str, data: bytes) -> None:
        """Take text, like `Run`."""
        self._clear_if_pending()
        if self._text_left > 0:
            self._text_left -= len(data)
            self._kept.append(partial(Run.add_text, stream=stream, data=data))

    def show(self, header: dict[str, Any], body: bytes) -> None:
        """Take a rich output, like `Run`."""
        if header.get("update") is not True:
            self._clear_if_pending()
        if self._outputs_left and len(body) <= self._output_left:
            self._outputs_left -= 1
            self._output_left -= len(body)
            self._kept.append(partial(Run.show, header=header, body=body))

    def show_error(self, error: Mapping[str, str], *, ends: bool) -> None:
        """Take an error, like `Run`."""
        self._clear_if_pending()
        if self._text_left > 0:
            self._text_left -= sum(map(len, error.values()))
            self._kept.append(partial(Run.show_error, error=error, ends=ends))

    def clear(self, *, wait: bool) -> None:
        """Clear it, now or when more arrives."""
        self._clear_pending = True
        if not wait:
            self._clear_if_pending()

    def hand_over(self, run: Run) -> None:
        """Pass everything to an execution that begins."""
        kept = self._kept
        self.forget()
        for action in kept:
            action(run)

    def text(self) -> bytes:
        """Return the text of both streams, for a diagnosis."""
        return b"".join(action.keywords["data"] for action in self._kept if "data" in action.keywords)

    def _clear_if_pending(self) -> None:
        if self._clear_pending:
            self.forget()
