"""A pool from a published Azure template, with 20 sessions at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.waiting import within

import greenroom

from .conftest import containers_of

pytestmark = [pytest.mark.slow, pytest.mark.alone]

PUBLISHED = Path(__file__).with_name("published.json")


def test_each_of_20_sessions_sees_its_own_state(image: str) -> None:
    assert f'"{image}"' in PUBLISHED.read_text()
    with greenroom.connect(f"docker:?template={PUBLISHED}") as pool:
        assert within(240, lambda: pool.status().ready == 10)
        assert pool.status().limit == 50

        def use(number: int) -> tuple[object, object]:
            session = pool.session(f"user-{number:04}")
            first = session.request("POST", "/state", json={"number": number}).json()
            return first, session.request("GET", "/state").json()

        with ThreadPoolExecutor(20) as threads:
            found = list(threads.map(use, range(20)))
        assert found == [({"number": number}, {"number": number}) for number in range(20)]
        assert len(pool.sessions()) == 20
        status = pool.status()
        assert status.allocations_warm >= 10
        info = pool.session("user-0001").info()
        assert info is not None
        assert info.expires is not None
        assert (info.expires - info.last_used).total_seconds() == 600
    assert within(60, lambda: containers_of() == [])
