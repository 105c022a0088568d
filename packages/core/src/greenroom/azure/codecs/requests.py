"""Read the fields of a request to execute, which both contracts share."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping

from greenroom.azure.codecs.problems import BadRequest
from greenroom.azure.codecs.shared import ExecuteRequest, Json

_INPUT_TYPES = {"inline", "inlinetext", "inlinebase64"}
_EXECUTION_TYPES = {"synchronous", "asynchronous"}


def decode_fields(fields: Mapping[str, Json]) -> ExecuteRequest:
    """Read the fields. Upper and lower case do not matter in words, as in Azure.

    Raises:
        BadRequest: a field is missing, or has a value of another type.
    """
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
