"""Validate options, whatever their source: arguments, a URL, a file, the environment."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ValidationError

from greenroom.errors import InvalidRequest
from greenroom.untrusted import brief

MAX_TIMEOUT = 1800
"""The longest time limit of a synchronous execution, in seconds."""

SettingsT = TypeVar("SettingsT", bound=BaseModel)

_MOST = (1 << 63) - 1
_SECRET = {"env", "password", "secrets"}
"""Options whose values must not appear in errors."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)


def _size(value: object) -> object:
    """Return bytes from `512Mi`, `1Gi`, `128MB` or a plain number."""
    if isinstance(value, int) and (isinstance(value, bool) or value > _MOST):
        raise ValueError("must be a number of bytes below 2**63")
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value.strip()) if len(value) < 100 else None
    if match is None:
        raise ValueError("must be a number of bytes or a size such as 512Mi or 1Gi")
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    size = float(number) * base ** " kmgt".index(unit.lower() or " ")
    if size > _MOST:
        raise ValueError("must be a number of bytes below 2**63")
    return int(size)


Size = Annotated[int, BeforeValidator(_size)]
"""The type of a setting in bytes, which can be given as `512Mi`."""


def parse_size(value: int | str, name: str) -> int:
    """Return a number of bytes from a number or from `512Mi`.

    Raises:
        InvalidRequest: it is neither; the message calls it `name`.
    """
    try:
        size = _size(value)
    except ValueError as error:
        raise InvalidRequest(f"The option {name} {error}, not {brief(value)}.") from None
    if not isinstance(size, int) or size < 1:
        raise InvalidRequest(f"The option {name} must be a positive number of bytes, not {brief(value)}.")
    return size


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'memory'?` with the most similar known name, or an empty string."""
    import difflib  # noqa: PLC0415  only for a message

    by_folded = {each.casefold(): each for each in known}
    nearest = difflib.get_close_matches(name[:100].casefold(), by_folded, n=1)
    return f" Did you mean {by_folded[nearest[0]]!r}?" if nearest else ""


def validate(settings: type[SettingsT], options: Mapping[str, Any], *, also_known: Iterable[str] = ()) -> SettingsT:
    """Return the settings from options.

    Args:
        also_known: further options that the caller accepts, for the message.

    Raises:
        InvalidRequest: an option is unknown or its value breaks a rule; the message names both.
    """
    try:
        return settings.model_validate(dict(options))
    except ValidationError as error:
        known = sorted([*settings.model_fields, *also_known])
        explained = [_explain(item, _fields_at(settings, item["loc"]) or known) for item in error.errors()]
        raise InvalidRequest(" ".join(explained)) from None


def _fields_at(settings: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Return the fields of the nested model that an error is about; empty if it is about the settings themselves."""
    model: type[BaseModel] | None = None
    for name in place[:-1]:
        fields = (model or settings).model_fields
        annotation = fields[str(name)].annotation if name in fields else None
        inner = [each for each in (annotation, *get_args(annotation)) if isinstance(each, type)]
        model = next((each for each in inner if issubclass(each, BaseModel)), None)
    return sorted(model.model_fields) if model is not None else []


def _explain(error: Any, known: Sequence[str]) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        last = str(error["loc"][-1])
        return f"Unknown option {brief(name)}.{did_you_mean(last, known)} Options: {', '.join(known)}."
    if error["type"] == "missing":
        return f"The option {name} must be given."
    message: str = error["msg"].removeprefix("Value error, ").partition(", unable to")[0]
    message = re.sub("^Input should ", "must ", message)
    if not name:
        return f"The options must be consistent: {message}."
    value = error["input"]
    if name == "env" or isinstance(value, Mapping) or _SECRET.intersection(error["loc"]):
        return f"The option {name} {message}."
    allowed = re.findall("'([^']*)'", error.get("ctx", {}).get("expected", ""))
    hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
    return f"The option {name} {message}, not {brief(value)}.{hint}"
