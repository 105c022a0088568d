"""Read the fields of a request to execute, which both contracts share."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from typing import cast

from greenroom.azure.codecs.problems import NOT_SUPPORTED, BadRequest
from greenroom.azure.codecs.shared import LATEST, MAX_INT32, ExecuteRequest, Json

_INPUT_TYPES = {"inline", "inlinetext", "inlinebase64"}
_EXECUTION_TYPES = {"synchronous", "asynchronous"}


def decode_fields(fields: Mapping[str, Json]) -> ExecuteRequest:
    """Read the fields. Upper and lower case do not matter in words, as in Azure.

    Raises:
        BadRequest: a field is missing, or has a value of another type.
    """
    if fields.get("execCommandAndArgs") is not None:
        raise BadRequest(
            "The request's body must have a 'shellCommand', not 'execCommandAndArgs': it is not offered.",
            code=NOT_SUPPORTED,
            target="execCommandAndArgs",
        )
    shell = fields.get("shellCommand") is not None
    return ExecuteRequest(
        code=_code(fields, "shellCommand" if shell else "code"),
        timeout=_timeout(fields),
        execution_type=_word(fields, "executionType", _EXECUTION_TYPES, "Synchronous"),
        shell=shell,
        output_limit=_output_limit(fields),
        # The specification names it one way, and its own examples another.
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
    """Check the fields as the specification declares them; those that it does not declare can have any value.

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
    """A value for a message: its text if it is short, otherwise its type."""
    if value is None:
        return "null"
    return f"{value!r:.100}" if isinstance(value, str | bool | int | float) else type(value).__name__
