"""The base class of conformance suites."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from greenroom.sessions import Session, SessionPool

pytest.register_assert_rewrite("greenroom.testing.attacks")  # so that failures there show their values


class Suite:
    """A set of tests that a subclass runs on its own subject, which it provides by fixtures.

    A subclass cannot replace a test: if its subject differs, `known_differences` has the reason, and the test is
    expected to fail, strictly: once it passes, it must be removed from the list.
    """

    known_differences: ClassVar[Mapping[str, str]] = {}
    """By the name of a test, or of one of its cases as `test_name[case]`: why it fails for this subject."""

    not_run: ClassVar[Mapping[str, str]] = {}
    """By the name of a test: why it would do harm here, or never end."""

    @pytest.fixture(scope="class")
    @classmethod
    def pool(cls) -> Iterator[SessionPool]:
        """The subject: subclasses yield an open pool."""
        raise NotImplementedError

    @pytest.fixture
    def session(self, pool: SessionPool) -> Iterator[Session]:
        """A new session, deleted afterwards."""
        with pool.session() as session:
            yield session

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, pool: SessionPool) -> Iterator[Session]:
        """One session for all tests that accept the variables and files of other tests."""
        with pool.session() as session:
            yield session

    @pytest.fixture(autouse=True)
    def _mark_known_case(self, request: pytest.FixtureRequest) -> None:
        name: str = request.node.name
        if "[" in name and (reason := self.known_differences.get(name)) is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in vars(cls):
            if name.startswith("test_") and any(hasattr(base, name) for base in cls.__mro__[1:]):
                raise TypeError(f"{cls.__name__}.{name} would replace a test of the suite; use known_differences")
        for differences, run in ((cls.known_differences, True), (cls.not_run, False)):
            for name, reason in differences.items():
                test, is_case, _ = name.partition("[")
                if is_case and run:  # marked when it runs
                    getattr(cls, test)
                    continue
                mark = pytest.mark.xfail(reason=reason, strict=True, run=run)
                setattr(cls, name, mark(_copy(getattr(cls, name))))


def _copy(function: types.FunctionType) -> types.FunctionType:
    """Return a separate function, so that a mark does not reach the other subclasses."""
    copied = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    copied.__dict__.update(function.__dict__)
    copied.pytestmark = list(getattr(function, "pytestmark", []))  # pyright: ignore[reportFunctionMemberAccess]
    return copied
