"""Read the fields of an execution request, which both contracts share."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from typing import cast

from greenroom.azure.codecs.problems import BadRequest
from greenroom.azure.codecs.shared import API_VERSIONS, LATEST, MAX_INT32, SHELL_SINCE, ExecuteRequest, Json
from greenroom.errors import InvalidRequest

_INPUT_TYPES = {"inline", "inlinetext", "inlinebase64"}
_EXECUTION_TYPES = {"synchronous", "asynchronous"}


def decode_fields(fields: Mapping[str, Json]) -> ExecuteRequest:
    """Read the fields. Keywords are case-insensitive, as in Azure.

    Raises:
        BadRequest: a field is missing, or has a value of another type.
    """
    shell = fields.get("shellCommand") is not None
    arguments = _arguments(fields)
    if shell and arguments:
        raise BadRequest(
            "Either 'shellCommand' or 'execCommandAndArgs' must be given, not both.", target="execCommandAndArgs"
        )
    return ExecuteRequest(
        code="" if arguments else _code(fields, "shellCommand" if shell else "code"),
        timeout=_timeout(fields),
        execution_type=_word(fields, "executionType", _EXECUTION_TYPES, "Synchronous"),
        shell=shell or bool(arguments),
        arguments=arguments,
        stdin=_stdin(fields) if shell or arguments else "",
        output_limit=_output_limit(fields),
        # The specification and its own examples use different names.
        jupyter_format=_flag(fields, "returnJupyterFormatExecutionResult") or _flag(fields, "returnJupyterFormat"),
    )


def _is_text(value: Json) -> bool:
    return isinstance(value, str)


def _is_int32(value: Json) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not -MAX_INT32 <= value <= MAX_INT32:
        return False
    return int(value) == value


def _is_flag(value: Json) -> bool:
    return isinstance(value, bool)


def _are_texts(value: Json) -> bool:
    return isinstance(value, list) and all(map(_is_text, cast("list[Json]", value)))


_Declared = Mapping[str, tuple[str, Callable[[Json], bool]]]
_TEXT, _INT32, _FLAG = ("a string", _is_text), (f"a whole number up to {MAX_INT32}", _is_int32), ("a boolean", _is_flag)
_ALWAYS: _Declared = {"codeInputType": _TEXT, "executionType": _TEXT, "code": _TEXT, "timeoutInSeconds": _INT32}
_SHELL: _Declared = {"shellCommand": _TEXT}
_NEWEST: _Declared = {
    "outputStreamsMaxLength": _INT32,
    "useEmptyKernel": _FLAG,
    "returnJupyterFormatExecutionResult": _FLAG,
    "execCommandAndArgs": ("an array of strings", _are_texts),
    "stdin": _TEXT,
}
_DECLARED: Mapping[str, _Declared] = {"2025-02-02-preview": _ALWAYS | _SHELL, LATEST: _ALWAYS | _SHELL | _NEWEST}
_REQUIRED = ("codeInputType", "executionType", "code")
_REQUIRING = ("2024-10-02-preview", "2025-02-02-preview")


def check_declared(fields: Mapping[str, Json], version: str) -> None:
    """Check the fields against the specification; fields that it does not declare can have any value.

    `timeoutInSeconds` is required there, but released clients omit it.

    Raises:
        BadRequest: a field is missing, or has another type.
    """
    for name, (kind, is_kind) in _DECLARED.get(version, _ALWAYS).items():
        if name in fields and not is_kind(fields[name]):
            raise BadRequest(f"'{name}' must be {kind}, not {_shown(fields[name])}.", target=name)
    if version in _REQUIRING and "shellCommand" not in fields:
        for name in _REQUIRED:
            if name not in fields:
                raise BadRequest(f"The request's body must have '{name}' in version {version}.", target=name)


def shell_request(
    command: str | tuple[str, ...], stdin: bytes, version: str, *, timeout: float, output_limit: int
) -> ExecuteRequest:
    """Return the request to run a shell command, or a program with arguments.

    Raises:
        InvalidRequest: the version has no such command.
    """
    code, arguments = (command, ()) if isinstance(command, str) else ("", command)
    since = LATEST if arguments or stdin else SHELL_SINCE
    if API_VERSIONS.index(version) < API_VERSIONS.index(since):
        kind = "A list of arguments and stdin need" if since == LATEST else "Shell commands need"
        raise InvalidRequest(f"{kind} api_version {since} or later in Azure, not {version}.")
    try:
        text = stdin.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The stdin must be UTF-8 in Azure, where requests carry it as text: {error}.") from None
    return ExecuteRequest(  # noqa: S604
        code=code,
        timeout=timeout,
        shell=True,
        arguments=arguments,
        stdin=text,
        output_limit=output_limit,
    )


def _code(fields: Mapping[str, Json], name: str) -> str:
    code = fields.get(name)
    if not isinstance(code, str):
        raise BadRequest(f"'{name}' must be a string, not {_shown(code)}.", target=name)
    if _word(fields, "codeInputType", _INPUT_TYPES, "inline").lower() == "inlinebase64" and name == "code":
        try:
            code = base64.b64decode(code, validate=True).decode()
        except (binascii.Error, ValueError):  # ValueError: not ASCII, or not UTF-8
            raise BadRequest(
                f"'{name}' must be UTF-8 in base64, as its input type says, not {_shown(code)}.", target=name
            ) from None
    return code


def _arguments(fields: Mapping[str, Json]) -> tuple[str, ...]:
    arguments = fields.get("execCommandAndArgs")
    if arguments is None:
        return ()
    if not isinstance(arguments, list) or not arguments:
        message = f"'execCommandAndArgs' must be an array of strings, not {_shown(arguments)}."
        raise BadRequest(message, target="execCommandAndArgs")
    for argument in cast("list[Json]", arguments):
        if not isinstance(argument, str):
            message = f"'execCommandAndArgs' must have only strings, not {_shown(argument)}."
            raise BadRequest(message, target="execCommandAndArgs")
    return tuple(cast("list[str]", arguments))


def _stdin(fields: Mapping[str, Json]) -> str:
    stdin = fields.get("stdin")
    if stdin is None:
        return ""
    if not isinstance(stdin, str):
        raise BadRequest(f"'stdin' must be a string, not {_shown(stdin)}.", target="stdin")
    return stdin


def _timeout(fields: Mapping[str, Json]) -> float | None:
    timeout = fields.get("timeoutInSeconds")
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < math.inf:
        raise BadRequest(
            f"'timeoutInSeconds' must be a positive number, not {_shown(timeout)}.", target="timeoutInSeconds"
        )
    return min(timeout, 1e9)


def _output_limit(fields: Mapping[str, Json]) -> int | None:
    limit = fields.get("outputStreamsMaxLength")
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        message = f"'outputStreamsMaxLength' must be a whole number, not {_shown(limit)}."
        raise BadRequest(message, target="outputStreamsMaxLength")
    return limit


def _word(fields: Mapping[str, Json], name: str, words: set[str], otherwise: str) -> str:
    word = fields.get(name)
    if word is None:
        return otherwise
    if not isinstance(word, str) or word.lower() not in words:
        raise BadRequest(f"'{name}' must be one of {', '.join(sorted(words))}, not {_shown(word)}.", target=name)
    return word


def _flag(fields: Mapping[str, Json], name: str) -> bool:
    flag = fields.get(name)
    if flag is not None and not isinstance(flag, bool):
        raise BadRequest(f"'{name}' must be true or false, not {_shown(flag)}.", target=name)
    return flag is True


def _shown(value: Json) -> str:
    """Return a value for a message: its text if it is short, otherwise its type."""
    if value is None:
        return "null"
    return f"{value!r:.100}" if isinstance(value, str | bool | int | float) else type(value).__name__
