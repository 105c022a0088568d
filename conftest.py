"""What holds for every test of the repository: its report arrives, whatever it says."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, cast

import pytest


def _readable(value: Any) -> Any:
    """Escape lone surrogates. They have no bytes in UTF-8, and pytest-xdist loses a worker that reports one."""
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {_readable(key): _readable(item) for key, item in cast("dict[Any, Any]", value).items()}
        case list():
            return [_readable(item) for item in cast("list[Any]", value)]
        case tuple():
            return tuple(_readable(item) for item in cast("tuple[Any, ...]", value))
        case _:
            return value


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    return _readable((yield))
