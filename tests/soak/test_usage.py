"""The usage that a pool reports matches what the kernel counted, for many short sessions of busy and hostile code."""

from __future__ import annotations

import pytest
from tests.soak.adding_up import measure, reason_to_skip

pytestmark = pytest.mark.alone


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("engine", "sessions", "identifiers"),
    [
        ("bubblewrap:", 100, 10),
        ("docker:", 20, 10),
        pytest.param("bubblewrap:", 1000, 50, marks=pytest.mark.soak),
        pytest.param("docker:", 200, 50, marks=pytest.mark.soak),
    ],
)
def test_the_usage_of_many_sessions_adds_up_to_what_the_kernel_counted(
    engine: str, sessions: int, identifiers: int
) -> None:
    if reason := reason_to_skip():
        pytest.skip(reason)
    found = measure(engine, sessions, identifiers)
    assert found.source == "control_groups"
    assert found.told == pytest.approx(found.pool, rel=0.001)
    assert found.pool + found.spare == pytest.approx(found.kernel, rel=0.02)
