"""Options of any origin (arguments, a URL, a file, the environment) become checked settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ValidationError

from greenroom.errors import InvalidRequest
from greenroom.untrusted import brief

MAX_TIMEOUT = 1800
"""The longest that a synchronous execution may take, in seconds."""

SettingsT = TypeVar("SettingsT", bound=BaseModel)

_MOST = (1 << 63) - 1
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def _size(value: object) -> object:
    """Bytes from `512Mi`, `1Gi`, `128MB` or a plain number."""
    if isinstance(value, int) and (isinstance(value, bool) or value > _MOST):
        raise ValueError("a size is a number of bytes below 2**63")
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip()) if len(value) < 100 else None
    if match is None:
        raise ValueError("a size is a number of bytes or one with a unit, such as 512Mi or 1Gi")
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    size = float(number) * base ** " kmgt".index(unit.lower() or " ")
    if size > _MOST:
        raise ValueError("a size is a number of bytes below 2**63")
    return int(size)


Size = Annotated[int, BeforeValidator(_size)]
"""The type of a setting in bytes, which may be said as `512Mi`."""


def parse_size(value: int | str, name: str) -> int:
    """Bytes from a number of them or from `512Mi`.

    Raises:
        InvalidRequest: it is neither; the message calls it `name`.
    """
    try:
        size = _size(value)
    except ValueError as error:
        raise InvalidRequest(f"The option {name}={brief(value)} is not valid: {error}.") from None
    if not isinstance(size, int) or size < 1:
        raise InvalidRequest(f"The option {name}={brief(value)} is not valid: it takes a positive number of bytes.")
    return size


def validate(settings: type[SettingsT], options: Mapping[str, Any], *, also_known: Sequence[str] = ()) -> SettingsT:
    """The settings that the options give; `also_known` are further ones, for the message.

    Raises:
        InvalidRequest: an option is unknown or its value breaks a rule; the message names both.
    """
    try:
        return settings.model_validate(dict(options))
    except ValidationError as error:
        known = sorted([*settings.model_fields, *also_known])
        raise InvalidRequest(" ".join(_complaint(item, known) for item in error.errors())) from None


def _complaint(error: Any, known: Sequence[str]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        return f"The option {name!r} is unknown. Known are: {', '.join(known)}."
    message = error["msg"].removeprefix("Value error, ")
    if not name:
        return f"The options do not fit together: {message}."
    return f"The option {name}={brief(error['input'])} is not valid: {message[:1].lower()}{message[1:]}."
