"""Environment variables of a session and of one execution."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from os import environ  # by name, like the following: code can replace them in their modules
from time import tzset


class Variables:
    """Sets a session's environment variables in this process."""

    def __init__(self) -> None:
        self._before: dict[str, str | None] = {}
        """The values before the session's, by name; `None` for a variable that was not set."""
        self.of_session: Mapping[str, str] = {}

    def set(self, variables: Mapping[str, str]) -> None:
        """Set the session's variables; those that it had and that are not among them become what they were before."""
        gone = {name: value for name, value in self._before.items() if name not in variables}
        _change(gone)
        self._before = {name: self._before.get(name, environ.get(name)) for name in variables}
        self.of_session = variables
        _change(variables)

    @contextmanager
    def during(self, variables: Mapping[str, str]) -> Generator[None, None, None]:
        """Set variables for an execution, and make them afterwards what they were before."""
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
