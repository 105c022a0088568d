"""The limit on processors applies to all processes of a sandbox together."""

from __future__ import annotations

import pytest

from greenroom.testing import engine_pool

_TWO_BUSY_PROCESSES = """
import os, time
def spin():
    end = time.process_time() + 0.5
    while time.process_time() < end:
        pass
began = time.monotonic()
if (pid := os.fork()) == 0:
    spin()
    os._exit(0)
spin()
os.waitpid(pid, 0)
time.monotonic() - began
"""


@pytest.mark.parametrize("url", ["bubblewrap:", "docker:"])
def test_half_a_processor_is_enforced(url: str) -> None:
    with engine_pool(url, cpu=0.5, preload=(), ready_session_instances=0) as pool, pool.session() as session:
        took = float(session.execute(_TWO_BUSY_PROCESSES, timeout=600).raise_for_error().result or "")
    assert took > 1.5, "seconds for a second of processor time; a busy machine takes longer"
