"""The attacks whose outcome could differ in a shell command, run from one."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any, ClassVar

import pytest

from greenroom.models import Event, Execution
from greenroom.sessions import Session, SessionPool
from greenroom.testing.attacks.base import PRELUDE
from greenroom.testing.attacks.host import HostAttacks
from greenroom.testing.attacks.neighbours import NeighbourAttacks
from greenroom.testing.attacks.system_calls import SystemCallAttacks


class _ShellSession(Session):
    """A session whose attacks are shell commands: Python programs. Other code runs as usual."""

    def __init__(self, session: Session) -> None:
        vars(self).update(vars(session))

    def execute(self, code: str, **options: Any) -> Execution:
        if code.startswith(PRELUDE):
            return self.shell(["python3", "-c", code], **options)
        return super().execute(code, **options)

    def stream(self, code: str, **options: Any) -> Generator[Event, None, None]:
        if code.startswith(PRELUDE):
            return self.stream_shell(["python3", "-c", code], **options)
        return super().stream(code, **options)


class ShellAttackSuite(SystemCallAttacks, HostAttacks, NeighbourAttacks):
    """Like `AttackSuite`, with its options: the attacker is a command beside the session's code."""

    programs_end: ClassVar[Mapping[str, str]] = {
        "test_the_use_of_system_files_by_a_neighbour_cannot_be_watched": "what a command watches ends with it",
    }
    """Known differences of commands, which keep no state for the next one."""

    @pytest.fixture
    def session(self, pool: SessionPool) -> Iterator[Session]:
        """A new session, deleted afterwards."""
        with pool.session() as session:
            yield _ShellSession(session)

    @pytest.fixture(scope="class")
    @classmethod
    def victim(cls, pool: SessionPool) -> Iterator[Session]:
        """One session for all attacks."""
        with pool.session() as session:
            yield _ShellSession(session)
