"""Forks do not depend on how sandboxes are made: a session in a container forks, too."""

from __future__ import annotations

import pytest

from greenroom.testing import engine_pool

pytestmark = pytest.mark.slow


def test_a_session_in_a_container_forks() -> None:
    with engine_pool("docker:", ready_session_instances=0, max_concurrent_sessions=3) as pool:
        session = pool.session()
        session.execute(
            "import pandas as pd\ndef twice(n): return n * base\nbase = 2\n"
            "frame = pd.DataFrame({'n': [1, 2]})\nframe.to_csv('frame.csv')\nhandle = open('frame.csv')"
        ).raise_for_error()
        first, second = session.fork(2)
        first.execute("base = 3").raise_for_error()
        results = [each.execute("twice(7), frame.n.sum().item()").result for each in (session, first, second)]
        assert results == ["(14, 3)", "(21, 3)", "(14, 3)"]
        assert [file.name for file in second.files()] == ["frame.csv"]
        assert [left_out.name for left_out in second.not_carried] == ["handle"]
