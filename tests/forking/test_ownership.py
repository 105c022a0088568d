"""Which forks end with their pool: those with a generated identifier, once they exist."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from greenroom import InvalidRequest
from greenroom.backend import Overrides
from greenroom.models import NotCarried
from greenroom.testing import ScriptedBackend, scripted_pool


class Copies(ScriptedBackend):
    def __init__(self) -> None:
        super().__init__()
        self.refuses = False
        self.owned: list[str] = []

    async def fork(  # pyright: ignore[reportIncompatibleMethodOverride]  the base refuses
        self, identifier: str, forks: Mapping[str, Overrides | None], *, timeout: float | None
    ) -> tuple[NotCarried, ...]:
        assert not self.owned
        if self.refuses:
            raise InvalidRequest(f"The session {identifier} must not be forked in {timeout} to {list(forks)}.")
        return ()

    def mark_owned(self, identifier: str) -> None:
        self.owned.append(identifier)


def test_forks_with_a_generated_identifier_are_the_pools_own() -> None:
    backend = Copies()
    with scripted_pool(backend) as pool:
        forks = pool.session("parent").fork(3)
        assert backend.owned == [fork.identifier for fork in forks]
        assert len(set(backend.owned)) == 3


def test_forks_with_a_given_identifier_are_not() -> None:
    backend = Copies()
    with scripted_pool(backend) as pool:
        pool.session("parent").fork(identifiers=["first", "second"])
        assert not backend.owned


def test_a_refused_fork_marks_no_session() -> None:
    backend = Copies()
    backend.refuses = True
    with scripted_pool(backend) as pool:
        with pytest.raises(InvalidRequest):
            pool.session("parent").fork(1000)
        assert not backend.owned
