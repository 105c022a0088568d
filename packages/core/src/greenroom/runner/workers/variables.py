"""Environment variables of a session and of one execution."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from os import environ  # imported by name, like the following: code can replace them in their modules
from time import tzset


class Variables:
    """Sets a session's environment variables in this process."""

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}
        """The values before the session's, by name; `None` for a variable that was not set."""
        self.of_session: Mapping[str, str] = {}

    def set(self, variables: Mapping[str, str]) -> None:
        """Set the session's variables; its previous ones that are not among them are reset to their original values."""
        gone = {name: value for name, value in self._before.items() if name not in variables}
        _change(gone)
        self._before = {name: self._before.get(name, environ.get(name)) for name in variables}
        self.of_session = variables
        _change(variables)

    @contextmanager
    def during(self, variables: Mapping[str, str]) -> Generator[None, None, None]:
        """Set variables for an execution, and reset them afterwards."""
        before = {name: environ.get(name) for name in variables}
        _change(variables)
        try:
            yield
        finally:
            _change(before)


def _change(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
    if "TZ" in variables:
        tzset()
