"""Cells have the same results in a sandbox that was forked from a template as in one that was started anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from greenroom import Session
from greenroom.testing import engine_pool

from .conftest import run_in
from .test_like_jupyter import TOPICS


@pytest.fixture(scope="module")
def sessions() -> Iterator[tuple[Session, Session]]:
    """One in a forked sandbox, and one in a new one."""
    with ExitStack() as stack:
        forks = stack.enter_context(engine_pool("bubblewrap:", ready_session_instances=0))
        anew = stack.enter_context(engine_pool("bubblewrap:?fork=off", ready_session_instances=0))
        forks.session().execute("1")  # the first one is forked before the modules are there
        yield forks.session(), anew.session()


@pytest.mark.parametrize("topic", TOPICS)
def test_cells_give_the_same_in_forked_and_new_sandboxes(sessions: tuple[Session, Session], topic: str) -> None:
    for about, cells in TOPICS[topic].items():
        for code in (cells,) if isinstance(cells, str) else cells:
            (_, forked), (_, new) = (run_in(session, code) for session in sessions)
            assert forked.in_all() == new.in_all(), about
