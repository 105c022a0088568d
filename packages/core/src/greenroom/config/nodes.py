"""Read JSON that a person or a client wrote, property by property; unknown properties are errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from greenroom.config.values import did_you_mean
from greenroom.errors import InvalidRequest
from greenroom.untrusted import brief

Object: TypeAlias = Mapping[str, Any]


class InvalidProperty(InvalidRequest):
    """A property of a resource breaks a rule.

    Attributes:
        target: the property's path, such as `properties.scaleConfiguration`.
    """

    def __init__(self, message: str, target: str) -> None:
        super().__init__(message)
        self.target = target


class Node:
    """An object of the template. Its properties are taken by name; `done` refuses the remaining ones."""

    def __init__(self, value: object, name: str, *, given: bool = True) -> None:
        self.name = name
        self.given = given
        self._left = dict(as_object(value, name or "The template"))
        self._known: list[str] = []

    @property
    def empty(self) -> bool:
        return not self._left

    def path(self, name: str) -> str:
        return f"{self.name}.{name}" if self.name else name

    def invalid(self, name: str, rule: str) -> InvalidProperty:
        """Return the error for a property that breaks a rule."""
        return InvalidProperty(f"{self.path(name)} {rule}.", self.path(name))

    def done(self) -> None:
        """Refuse the properties that were not taken."""
        for name in self._left:
            known = sorted(self._known)
            path = self.path(str(name))
            raise InvalidProperty(
                f"Unknown property {path!r:.200}.{did_you_mean(str(name), known)} "
                f"Known{f' in {self.name}' if self.name else ''}: {', '.join(known)}.",
                path,
            )

    def values(self) -> dict[str, Any]:
        """Take and return all remaining properties, unchecked."""
        found, self._left = self._left, {}
        return found

    def ignore(self, name: str) -> None:
        """Take a property that has no meaning on this machine."""
        self._take(name)

    def refuse(self, name: str, why: str) -> None:
        if self._take(name):
            raise self.invalid(name, why)

    def node(self, name: str, *, required: bool = False) -> Node:
        value = self._take(name, required=required)
        return Node({} if value is None else value, self.path(name), given=value is not None)

    def nodes(self, name: str) -> list[Node]:
        return [Node(value, f"{self.path(name)}[{number}]") for number, value in enumerate(self._list(name))]

    def texts(self, name: str) -> list[str]:
        values = self._list(name)
        for number, value in enumerate(values):
            if not isinstance(value, str):
                raise self.invalid(f"{name}[{number}]", f"must be a string, not {brief(value)}")
        return values

    def text(self, name: str, *, required: bool = False, secret: bool = False) -> str | None:
        return self._checked(name, lambda value: isinstance(value, str), "a string", required=required, secret=secret)

    def number(self, name: str) -> int | float | None:
        return self._checked(name, _is_number, "a number")

    def flag(self, name: str) -> bool | None:
        return self._checked(name, lambda value: isinstance(value, bool), "true or false")

    def word(self, name: str, known: Mapping[str, str | None], *, required: bool = False) -> str | None:
        """Return the value of a known keyword; keywords are case-insensitive, as in Azure."""
        value = self.text(name, required=required)
        if value is None:
            return None
        by_folded = {each.casefold(): meaning for each, meaning in known.items()}
        if value.casefold() not in by_folded:
            words = list(known)
            rule = f"be {words[0]}" if len(words) == 1 else f"be one of {', '.join(words)}"
            hint = did_you_mean(value, known)
            raise InvalidProperty(f"{self.path(name)} must {rule}, not {value!r:.200}.{hint}", self.path(name))
        return by_folded[value.casefold()]

    def renamed(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Return the remaining properties, numbers or strings, keyed by the options whose rules apply to them."""
        found = {
            option: value
            for name, option in names.items()
            if (value := self._checked(name, _is_plain, "a number or a string")) is not None
        }
        self.done()
        return found

    def _checked(
        self,
        name: str,
        valid: Callable[[Any], bool],
        rule: str,
        *,
        required: bool = False,
        secret: bool = False,
    ) -> Any:
        value = self._take(name, required=required)
        if value is not None and not valid(value):
            given = type(value).__name__ if secret else brief(value)
            raise self.invalid(name, f"must be {rule}, not {given}")
        return value

    def _list(self, name: str) -> list[Any]:
        value = self._take(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.invalid(name, f"must be a list, not {brief(value)}")
        return cast("list[Any]", value)

    def _take(self, name: str, *, required: bool = False) -> Any:
        self._known.append(name)
        value = self._left.pop(name, None)
        if value is None and required:
            hint = did_you_mean(name, self._left)
            raise InvalidProperty(f"The template must have {self.path(name)}.{hint}", self.path(name))
        return value


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _is_plain(value: object) -> bool:
    return isinstance(value, str) or _is_number(value)


def as_object(value: object, name: str) -> Object:
    if not isinstance(value, Mapping):
        raise InvalidProperty(f"{name} must be an object, not {brief(value)}.", name)
    return cast("Object", value)
