"""Writes a whole session to a stream, and reads one."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Callable, Sequence
from pickle import Pickler, Unpickler
from typing import Any

from ...protocol import MAX_LEFT_OUT
from . import namespace, settings
from .files import read_files, size_of_files, write_files
from .functions import fill
from .names import KNOWN
from .namespace import Item
from .pickling import PROTOCOL, CannotBeCopied, SessionPickler
from .stream import Counter, Incoming, Outgoing, StreamEnded, TooMuch

_MARGIN = 64 << 20
"""Bytes that can be written beyond twice the counted size: files grow, and objects are rebuilt each time."""
_MAX_LABEL = 200
_MAX_REASON = 300

_SETTERS = namespace.SETTERS | settings.SETTERS


class Beginning:
    """The state of a session before its first cell."""

    def __init__(self, shell: Any, names: dict[str, Any], environment: dict[str, str]) -> None:
        """
        Args:
            shell: IPython's shell.
            names: the variables.
            environment: the environment variables, including the session's own.
        """
        self.shell = shell
        self.names = names
        self.environment = environment

    def know(self) -> None:
        shell = self.shell
        KNOWN.clear()
        KNOWN.update(
            {
                "namespace": shell.user_ns,
                "main": shell.user_module,
                "shell": shell,
                "inputs": shell.history_manager.input_hist_parsed,
                "outputs": shell.history_manager.output_hist,
                "directories": shell.history_manager.dir_hist,
                "builtins": builtins.__dict__,
                "modules": sys.modules,
                "path": sys.path,
                "environment": os.environ,
            }
        )
        for name in ("stdout", "stderr", "stdin"):
            KNOWN.setdefault(name, getattr(sys, name))


class Saving:
    """Writes a session. Anything that cannot be copied is found before anything is written."""

    def __init__(self, beginning: Beginning, without: Sequence[str]) -> None:
        """
        Args:
            beginning: the state of the session before its first cell.
            without: labels of what to leave out.
        """
        beginning.know()
        self._beginning = beginning
        self._items: list[Item] = []
        self._without = set(without)
        self._size = self._size_of_files = 0
        self.left_out: list[tuple[str, str]] = []
        self.at = ""
        """What it is about to write."""

    def prepare(self) -> int:
        """Find out what can be copied; return how many bytes it will take."""
        size = 0
        counter, pickler = self._trial()
        for item in self._all_items():
            label = self.at = item.label[:_MAX_LABEL]
            if label in self._without:
                continue
            try:
                pickler.dump((item.kind, item.name))
                pickler.dump(item.value)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  whatever an object's own methods raise
                self.leave_out(label, _reason(error, item.value))
                size += counter.size
                counter, pickler = self._trial()  # what the old one had begun to write must not count
            else:
                self._items.append(item)
        self.at = "files"
        self._size_of_files = size_of_files()
        self._size = size + counter.size + self._size_of_files
        return self._size

    def write(self, send: Callable[[bytes], None]) -> tuple[str, str] | None:
        """Write everything; `send` gets it in pieces.

        Returns:
            What could not be written this time, and why; if there is anything, the stream is unusable.
        """
        stream = Outgoing(send, 2 * self._size + _MARGIN)
        self.at = "files"
        most = self._size_of_files + _MARGIN // 2
        write_files(lambda entry: Pickler(stream, PROTOCOL).dump(entry), self.leave_out, most)
        pickler = SessionPickler(stream)
        for item in self._items:
            self.at = item.label[:_MAX_LABEL]
            pickler.dump((item.kind, item.name))
            try:
                pickler.dump(item.value)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001  whatever an object's own methods raise
                return self.at, _reason(error, item.value)[:_MAX_REASON]
        pickler.dump(None)
        pickler.dump_cells()
        stream.flush()
        return None

    def leave_out(self, label: str, reason: str) -> None:
        if len(self.left_out) < MAX_LEFT_OUT:
            self.left_out.append((label[:_MAX_LABEL], reason[:_MAX_REASON]))

    def _all_items(self) -> list[Item]:
        shell = self._beginning.shell
        return [
            *settings.settings_of(shell, self._beginning.environment),
            *namespace.items_of(shell, self._beginning.names),
            *settings.late_settings_of(shell),
        ]

    @staticmethod
    def _trial() -> tuple[Counter, SessionPickler]:
        counter = Counter()
        return counter, SessionPickler(counter)


def _reason(error: BaseException, value: object) -> str:
    match error:
        case CannotBeCopied():
            return f"it {'is' if error.value is value else 'holds'} {error.kind}"
        case RecursionError():
            return "it is nested too deeply"
        case MemoryError():
            return "there is not enough memory"
        case TooMuch():
            return str(error)
        case _:
            text = str(error)
            if text.startswith("cannot pickle '") and text.endswith("' object"):
                return f"it is or holds an object of type {text[15:-8]}, which cannot be copied"
            return f"{type(error).__name__}: {text}"


def load(beginning: Beginning, receive: Callable[[], bytes]) -> tuple[str, str] | None:
    """Replace this session with the one in a stream.

    Returns:
        What could not be recreated, and why; if there is anything, the session can only read another stream.

    Raises:
        StreamEnded: the stream ended early.
    """
    shell = beginning.shell
    namespace.forget(shell, beginning.names)
    beginning.know()
    stream = Incoming(receive)
    read_files(lambda: Unpickler(stream).load())  # noqa: S301  the session's own data, in its sandbox
    unpickler = Unpickler(stream)  # noqa: S301
    unpickler.load()  # the objects in KNOWN
    while (key := unpickler.load()) is not None:
        kind, name = key
        try:
            _SETTERS[kind](shell, name, unpickler.load())
        except (KeyboardInterrupt, StreamEnded):
            raise
        except BaseException as error:  # noqa: BLE001  whatever an object's own methods raise
            return Item(kind, name, None).label[:_MAX_LABEL], _reason(error, None)[:_MAX_REASON]
    while (cells := unpickler.load()) is not None:
        for cell, held in cells:
            fill(cell, held)
    return None
