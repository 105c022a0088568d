"""The rules for callers' arguments: identifiers, paths, code, time limits. Shared by sessions, server and adapters."""

from __future__ import annotations

import numbers
import operator
import re
import uuid
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import cast

from greenroom.backend import NO_VARIABLES, ShellCommand
from greenroom.config.environment import Environment
from greenroom.config.values import MAX_TIMEOUT
from greenroom.errors import InvalidRequest
from greenroom.models import DATA_DIR
from greenroom.untrusted import brief

_MAX_CODE = 16 << 20

# Azure's data-plane specification allows these in an identifier.
_IDENTIFIER = re.compile(r"""[a-zA-Z0-9_|}{\[\]:";'<>?/.,@#$%^&*()\-+=!~`]{4,128}""")

_MAX_IDENTIFIER = 128
_MOST_FORKS = 1_000

_EXECUTION_ID = re.compile("[A-Za-z0-9_-]{1,128}")

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")


def check_identifier(identifier: str) -> str:
    """Return the identifier if it follows Azure's rule.

    Raises:
        InvalidRequest: it does not follow the rule.
    """
    if not isinstance(identifier, str) or not _IDENTIFIER.fullmatch(identifier):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(
            "The session identifier must have 4 to 128 characters, letters, digits and "
            f"_|{{}}[]:\";'<>?/.,@#$%^&*()-+=!~` (no spaces), not {brief(identifier)}."
        )
    return identifier


def fork_identifiers(parent: str, n: int | None, identifiers: Sequence[str] | None) -> list[str]:
    """Return the identifiers of the `n` sessions that a fork creates: the given ones, or random ones.

    Without `n`, one per given identifier, or a single one.

    Raises:
        InvalidRequest: a number or an identifier breaks a rule.
    """
    if identifiers is not None and (isinstance(identifiers, str) or not isinstance(identifiers, Sequence)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The identifiers of a fork must be a list, not {brief(identifiers)}.")
    if n is None:
        n = 1 if identifiers is None else len(identifiers)
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= _MOST_FORKS:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The number of forks must be from 1 to {_MOST_FORKS:,}, not {brief(n)}.")
    if identifiers is None:
        return [f"{parent[: _MAX_IDENTIFIER - 33]}-{uuid.uuid4().hex}" for _ in range(n)]
    if len(identifiers) != n:
        raise InvalidRequest(f"The identifiers of a fork must be a list of {n} identifiers, not {brief(identifiers)}.")
    found = [check_identifier(identifier) for identifier in identifiers]
    if len(set(found)) != n or parent in found:
        raise InvalidRequest(
            f"The identifiers of a fork must differ from each other and from {parent!r}, not {brief(identifiers)}."
        )
    return found


def check_execution_id(execution_id: str) -> str:
    """Return the id of an execution if it is valid.

    Raises:
        InvalidRequest: it is not valid.
    """
    if not isinstance(execution_id, str) or not _EXECUTION_ID.fullmatch(execution_id):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(
            "The id of an execution must have 1 to 128 ASCII letters, digits, hyphens and underscores, not "
            f"{brief(execution_id)}."
        )
    return execution_id


def check_path(path: str) -> str:
    """Return the absolute form of a path in a session: relative paths start at `/mnt/data`.

    Raises:
        InvalidRequest: it leads out of `/mnt/data`, or is not a path.
    """
    if not isinstance(path, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The path must be str, not {type(path).__name__}.")
    # A lone surrogate, which JSON can contain, cannot be encoded as UTF-8.
    if "\0" in path or len(path) > 4096 or len(path.encode("utf-8", "replace")) > 4096 or _HALF_A_PAIR.search(path):
        raise InvalidRequest(f"The path must be at most 4,096 bytes of UTF-8 without NUL, not {brief(path)}.")
    absolute = PurePosixPath(DATA_DIR) / path
    if ".." in absolute.parts or not absolute.is_relative_to(DATA_DIR):
        raise InvalidRequest(f"The path must be below {DATA_DIR}, where a session keeps its files, not {brief(path)}.")
    return str(absolute)


def check_file_path(path: str) -> str:
    absolute = check_path(path)
    if absolute == DATA_DIR:
        raise InvalidRequest(f"The path must name a file below {DATA_DIR}, not {brief(path)}.")
    return absolute


def check_code(code: str) -> str:
    """Return the code if a sandbox can accept it.

    Raises:
        InvalidRequest: it is empty, over 16 MiB, or not encodable as UTF-8.
    """
    if not isinstance(code, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The code must be str, not {type(code).__name__}.")
    if _encoded_size(code, "code") > _MAX_CODE:
        raise InvalidRequest("The code must be at most 16 MiB of UTF-8. Upload longer code as a file.")
    if not code.strip():
        raise InvalidRequest(f"The code must not be empty: {code!r:.50}.")
    return code


def check_env(env: Mapping[str, str] | None) -> Environment:
    """Return environment variables; `None` stands for none.

    Raises:
        InvalidRequest: a name or a value breaks a rule; the message shows no value.
    """
    if env is None:
        return NO_VARIABLES
    if not isinstance(env, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The env must be a mapping of names to values, not {type(env).__name__}.")
    try:
        return Environment.parse(env)
    except ValueError as error:
        raise InvalidRequest(f"The env {error}.") from None


def check_command(
    command: str | Sequence[str], stdin: str | bytes | None, env: Mapping[str, str] | None = None
) -> ShellCommand:
    """Return what a shell should run: a command text, or a program and its arguments.

    Raises:
        InvalidRequest: a part is empty, over 16 MiB, has a NUL, or is not encodable as UTF-8.
    """
    given: object = command  # without type checks, a caller can pass anything
    if isinstance(given, bytes | bytearray | memoryview) or not isinstance(given, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The command must be str or a list of str, not {type(given).__name__}.")
    texts: list[str] = []
    for argument in [given] if isinstance(given, str) else cast("Sequence[object]", given):
        if not isinstance(argument, str):
            raise InvalidRequest(f"The command's arguments must be str, not {type(argument).__name__}.")
        texts.append(argument)
    if sum(_encoded_size(text, "command") for text in texts) > _MAX_CODE:
        raise InvalidRequest("The command must be at most 16 MiB of UTF-8. Upload a longer one as a file.")
    if not texts or not texts[0].strip():
        raise InvalidRequest(f"The command must not be empty: {brief(command)}.")
    if any("\0" in text for text in texts):
        raise InvalidRequest(f"The command must not contain NUL characters: {brief(command)}.")
    return ShellCommand(command if isinstance(command, str) else tuple(texts), _check_stdin(stdin), check_env(env))


def _check_stdin(stdin: str | bytes | None) -> bytes:
    if stdin is None:
        return b""
    if not isinstance(stdin, str | bytes | bytearray | memoryview):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidRequest(f"The stdin must be str or bytes, not {type(stdin).__name__}.")
    size = _encoded_size(stdin, "stdin") if isinstance(stdin, str) else len(stdin)
    if size > _MAX_CODE:
        raise InvalidRequest("The stdin must be at most 16 MiB. Upload longer input as a file.")
    return stdin.encode() if isinstance(stdin, str) else bytes(stdin)


def _encoded_size(text: str, name: str) -> int:
    try:
        return max(len(text), len(text[: _MAX_CODE + 1].encode()))
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"The {name} must be encodable as UTF-8: {error}.") from None


def check_timeout(timeout: float | None, *, most: float | None = MAX_TIMEOUT, name: str = "timeout") -> float | None:
    """Return the time limit of code in seconds; `None` stands for the pool's own limit.

    Raises:
        InvalidRequest: it is not positive, or more than `most`.
    """
    if timeout is None:
        return None
    if not 0 < seconds(timeout) < float("inf"):
        raise InvalidRequest(f"The {name} must be a positive number of seconds, not {brief(timeout)}.")
    if most is not None and timeout > most:
        raise InvalidRequest(
            f"The {name} must be at most {most} seconds, not {brief(timeout)}. Background executions have no maximum."
        )
    return timeout


def check_limit(limit: int | None) -> int | None:
    """Return the maximum number of bytes; `None` stands for no limit.

    Raises:
        InvalidRequest: it is not a whole number, or is negative.
    """
    try:
        if limit is None or (not isinstance(limit, bool) and operator.index(limit) >= 0):
            return limit
    except TypeError:
        pass
    raise InvalidRequest(f"The limit must be a whole number of bytes, not {brief(limit)}.")


def seconds(value: float) -> float:
    """Return the number as a float; NaN for anything else, so that every comparison is false."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("inf")
