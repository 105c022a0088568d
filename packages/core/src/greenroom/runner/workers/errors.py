"""Describes errors of the user's code within the limits of the protocol. Their objects can behave in any way."""

from __future__ import annotations

import builtins
import linecache
import os
import re
import traceback
from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import Any, cast

from ..protocol import ERROR_LIMITS

_CELL = re.compile(r"<ipython-input-(\d+)-\w+>")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_REMOTE_FRAME = re.compile(r'  File "(.+)", line (\d+), in (.+)(?:\n    (.+))?')
_FILES = "/mnt/data"
_MAX_ENTRIES = 2_000  # the most that are searched for a module
_MAX_FRAMES = 12
_MAX_LINE = 3_000  # characters of an error's own text
_MAX_SOURCE = 300  # characters of a line of code
_MAX_ERRORS = 20  # the most of a chain and its groups that are described
_LONG_TRACEBACK = 400  # frames; formatting more takes seconds, and longer the more modules are loaded
_KEPT_FRAMES = 50  # at each end of a long one
_GROUPS: tuple[type[BaseException], ...] = getattr(builtins, "BaseExceptionGroup", ())  # since Python 3.11

_CAUSE = "\n\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT = "\n\nDuring handling of the above exception, another exception occurred:\n\n"


def describe(kind: Any, error: Any, lines: list[str]) -> dict[str, str]:
    """Describe an error by its name, its value, IPython's traceback, and a summary with the user's own frames."""
    parts = {
        "name": _safe_str(lambda: str(kind.__name__), "Exception"),
        "value": _safe_str(lambda: str(error), "<unprintable>"),
        "traceback": "\n".join(lines),
        "summary": _cut(
            _safe_str(lambda: _Summary().of(error), "")
            or _safe_str(lambda: _own_line(error), "Exception: <unprintable>"),
            ERROR_LIMITS["summary"],
        ),
    }
    return {part: _plain(text, ERROR_LIMITS[part]) for part, text in parts.items()}


def shorten(error: Any) -> None:
    """Cut the middle out of long tracebacks of an error and its causes.

    A recursion that ends after a million frames would otherwise be formatted until the session is killed.
    """
    for each in _chain(error):
        first = each.__traceback__
        length = sum(1 for _ in _links(first))
        if length > _LONG_TRACEBACK:
            before, after = (next(islice(_links(first), n, None)) for n in (_KEPT_FRAMES, length - _KEPT_FRAMES))
            before.tb_next = after


def _links(link: TracebackType | None) -> Iterator[TracebackType]:
    while link is not None:
        yield link
        link = link.tb_next


def _links_of_the_user(first: TracebackType | None) -> Iterator[TracebackType]:
    return (link for link in _links(first) if _is_of_the_user(link.tb_frame.f_code.co_filename))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that led to it, the most recent one first."""
    seen: set[int] = set()
    while isinstance(error, BaseException) and id(error) not in seen and len(seen) < _MAX_ERRORS:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


class _Summary:
    """The text of a summary: errors in chronological order, with the frames of the user's own code."""

    def __init__(self) -> None:
        self._left = _MAX_ERRORS

    def of(self, error: BaseException) -> str:
        text = ""
        chain = list(_chain(error))[::-1]
        for each, following in zip(chain, [*chain[1:], None], strict=True):
            if following is not None and _is_repeated(each, following):
                continue
            if text:
                text += _CAUSE if each.__cause__ is not None else _CONTEXT
            text += self._one(each)
        return text

    def _one(self, error: BaseException) -> str:
        self._left -= 1
        remote = _of_a_worker_process(error)
        if remote is not None:
            return remote
        lines = [*_frames(error.__traceback__), _own_line(error), *_notes(error)]
        if isinstance(error, _GROUPS):
            members = cast("tuple[BaseException, ...]", getattr(error, "exceptions", ()))
            for number, member in enumerate(members, 1):
                if self._left <= 0:
                    lines.append(f"  … {len(members) - number + 1} more sub-exceptions …")
                    break
                described = self.of(member).replace("\n", "\n    ")
                lines.append(f"  sub-exception {number}:\n    {described}")
        return "\n".join(lines)


def _is_repeated(error: BaseException, following: BaseException) -> bool:
    """Whether the text of the next error includes an error in a library, as with the many layers of network clients."""
    return not (
        any(_links_of_the_user(error.__traceback__))
        or isinstance(error, _GROUPS)
        or _of_a_worker_process(error)
        or _safe_str(lambda: str(error), "<unprintable>") not in _safe_str(lambda: str(following), "")
    )


def _own_line(error: BaseException) -> str:
    line = _cells(_safe_str(lambda: "".join(traceback.format_exception_only(type(error), error)).strip(), ""))
    return _cut(line, _MAX_LINE) or f"{type(error).__name__}: <unprintable>"


def _notes(error: BaseException) -> list[str]:
    """Return details that an error has but does not print."""
    notes = (_safe_str(lambda: _where_a_module_is(error), ""), _safe_str(lambda: _stderr(error), ""))
    return [note for note in notes if note]


def _where_a_module_is(error: BaseException) -> str:
    """Return where a module is in the session's files, if Python does not search there."""
    if not isinstance(error, ModuleNotFoundError) or not error.name or "." in error.name:
        return ""
    seen = 0
    for directory, directories, files in os.walk(_FILES):
        seen += len(directories) + len(files)
        for file in (f"{error.name}.py", f"{error.name}/__init__.py"):
            path = os.path.join(directory, file)
            if os.path.isfile(path):
                return f"The module is {path}: sys.path.insert(0, {directory!r}) lets Python find it."
        if seen > _MAX_ENTRIES:
            break
    return ""


def _stderr(error: BaseException) -> str:
    """Return the end of a `subprocess` command's output, if it was captured."""
    if type(error).__name__ != "CalledProcessError":
        return ""
    text: Any = getattr(error, "stderr", None) or getattr(error, "output", None) or ""
    text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    return f"The command wrote:\n{_cut(text.strip(), _MAX_LINE)}" if text.strip() else ""


def _frames(first: TracebackType | None) -> list[str]:
    frames = [(link.tb_frame, link.tb_lineno) for link in _links_of_the_user(first)]
    left_out = len(frames) - 8 if len(frames) > _MAX_FRAMES else 0  # a recursion
    if left_out:
        frames[4:-4] = []
    texts = [
        _cells(f"{frame.filename}, line {frame.lineno}, in {frame.name}\n    {_cut(frame.line or '', _MAX_SOURCE)}")
        for frame in traceback.StackSummary.extract(iter(frames))
    ]
    if left_out:
        texts.insert(4, f"… {left_out} more frames …")
    return texts


def _of_a_worker_process(error: BaseException) -> str | None:
    """Return the text of an error in another process: `multiprocessing` and similar libraries send it as text."""
    if type(error).__name__.lstrip("_") != "RemoteTraceback":
        return None
    text = str(error).strip().strip('"').strip()[-ERROR_LIMITS["traceback"] :]
    frames = [
        _cells(f"{file}, line {line}, in {name}\n    {source or linecache.getline(file, int(line)).strip()}")
        for file, line, name, source in _REMOTE_FRAME.findall(text)
        if _is_of_the_user(file)
    ]
    if len(frames) > _MAX_FRAMES:
        frames[4:-4] = [f"… {len(frames) - 8} more frames …"]
    return "\n".join(["In a worker process:", *frames, text.rpartition("\n")[2]])


def _is_of_the_user(file: str) -> bool:
    return _CELL.match(file) is not None or (
        file.startswith((f"{_FILES}/", "/tmp/")) and "/site-packages/" not in file  # noqa: S108
    )


def _cut(text: str, limit: int) -> str:
    """Return a text without its middle if it exceeds a limit: both ends of an error are informative."""
    return text if len(text) <= limit else f"{text[: limit // 2]} … {text[3 - limit // 2 :]}"


def _cells(text: str) -> str:
    return _CELL.sub(r"Cell \1", text)


def _safe_str(make: Callable[[], str], default: str) -> str:
    """Return a text that the user's objects produce, or the default if they raise."""
    try:
        return make()
    except BaseException:  # noqa: BLE001  they can raise anything
        return default


def _plain(text: str, limit: int) -> str:
    """Return a text without colors and lone surrogates, cut to a limit."""
    return _ANSI.sub("", text[: 2 * limit]).encode("utf-8", "replace").decode()[:limit]
