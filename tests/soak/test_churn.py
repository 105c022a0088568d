"""Sessions come and go for a long time through a pool that is always full: nothing grows, nothing is left behind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from tests.soak.churn import churn

pytestmark = pytest.mark.alone


@pytest.mark.filterwarnings("ignore::greenroom.AzureRangeWarning")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("engine", "pool_size", "sessions", "minutes"),
    [
        ("bubblewrap:", 200, 100_000, 5),
        pytest.param("bubblewrap:", 1_000, 3_000, 60, marks=pytest.mark.soak),
        pytest.param("docker:", 50, 1_000, 30, marks=pytest.mark.soak),
        pytest.param("bubblewrap:", 200, 100_000, 60, marks=pytest.mark.soak),
    ],
)
def test_nothing_grows_while_sessions_come_and_go_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    *,
    engine: str,
    pool_size: int,
    sessions: int,
    minutes: float,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = churn(engine, pool_size=pool_size, sessions=sessions, seconds=60 * minutes)
    record_property("sessions", f"{found.sessions:,} in {found.seconds:,.0f} s, {found.rate:.1f} per second")
    for name in asdict(found.before):
        early, late = found.early_and_late(name)
        before, after = getattr(found.before, name), getattr(found.after, name)
        record_property(name, f"{before:.0f}, {early:.0f} to {late:.0f}, {after:.0f}")
    assert found.sessions > pool_size, "the pool was never full"
    assert found.faults() == []
