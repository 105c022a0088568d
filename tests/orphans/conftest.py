"""The interpreter of an owner that is another user than that of the tests."""

from __future__ import annotations

from tests.engines.conftest import bare_python

__all__ = ["bare_python"]
