"""The limit on processors holds for all processes of a sandbox together."""

from __future__ import annotations

import pytest

from greenroom.testing import engine_pool

_TWO_BUSY_PROCESSES = """
import os, time
def spin():
    end = time.monotonic() + 2
    while time.monotonic() < end:
        pass
    return time.process_time()
read, write = os.pipe()
if (pid := os.fork()) == 0:
    began = time.process_time()
    os.write(write, str(spin() - began).encode())
    os._exit(0)
began = time.process_time()
mine = spin() - began
os.waitpid(pid, 0)
mine + float(os.read(read, 100))
"""


@pytest.mark.parametrize("url", ["bubblewrap:", "docker:"])
def test_half_a_processor_is_half_a_processor(url: str) -> None:
    with engine_pool(url, cpu=0.5, preload=(), ready_session_instances=0) as pool, pool.session() as session:
        used = float(session.execute(_TWO_BUSY_PROCESSES, timeout=60).raise_for_error().result or "")
    assert 0.2 < used < 1.6, "seconds of processor time in two seconds"
