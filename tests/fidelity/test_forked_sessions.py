"""The next cell gives in a fork what it gives in the session that was forked: at every cell, for all cells of
`test_like_jupyter` and the notebooks."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from greenroom import Session, SessionPool
from greenroom.testing import engine_pool

from .conftest import run_in
from .test_like_jupyter import KILLED, NOTEBOOKS, TOPICS, cells_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

_SEQUENCES: dict[str, list[str]] = {
    **{
        topic: [cell for cells in cases.values() for cell in ((cells,) if isinstance(cells, str) else cells)]
        for topic, cases in TOPICS.items()
    },
    **{path.stem: cells_of(path) for path in NOTEBOOKS if path.stem not in KILLED},
}
# What cells need that are not the first of their topic.
_BEFORE = {
    "text": "import time",
    "figures": "import pandas as pd",
    "charts": "import pandas as pd",
    "errors": "import pandas as pd, threading",
}

_TASK = "a task cannot be carried"
_USER = "each sandbox has a user of its own"
# By topic and cell: why the next one differs in a fork.
DIFFERENCES: dict[str, dict[str, str]] = {
    "errors": {"%tb": "nor can the last traceback"},
    "async": {"go.set()\nawait task": _TASK},
    "01-tasks-without-await": {"await task": _TASK, "coroutine.close()\n": "nor can a coroutine"},
    "07-magics-of-ipykernel": {
        "%less /etc/passwd": _USER,
        "%more /etc/passwd": _USER,
        "del price\n%store -r price\nprice": "what %store keeps is not below /mnt/data",
    },
    "19-text-of-a-task-after-its-cell": {'await task\nprint("over")\n': _TASK},
}


@pytest.fixture(scope="module")
def pool() -> Iterator[SessionPool]:
    with engine_pool("bubblewrap:", ready_session_instances=2, max_concurrent_sessions=5) as pool:
        yield pool


@pytest.mark.parametrize("topic", _SEQUENCES)
def test_the_next_cell_gives_the_same_result_in_a_fork_as_in_the_session(pool: SessionPool, topic: str) -> None:
    differing: dict[str, Any] = {}
    with pool.session() as session:
        session.execute(_BEFORE.get(topic, "None")).raise_for_error()
        for cell in _SEQUENCES[topic]:
            with _fork(session) as fork:
                _, expected = run_in(session, cell)
                _, found = run_in(fork, cell)
                if found.in_all() != expected.in_all():
                    differing[cell] = found.in_all(), expected.in_all(), fork.not_carried
    assert differing.keys() == DIFFERENCES.get(topic, {}).keys(), differing


@contextlib.contextmanager
def _fork(session: Session) -> Generator[Session, None, None]:
    (fork,) = session.fork()
    with fork:
        yield fork
