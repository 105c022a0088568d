"""A file of 128 MB is uploaded and downloaded without being held in the host's memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from greenroom.testing import engine_pool

_THERE_AND_BACK = """
import hashlib, json, pathlib, resource, sys
import greenroom
url, directory = sys.argv[1], pathlib.Path(sys.argv[2])
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
with greenroom.connect(url, preload=(), ready_session_instances=0) as pool, pool.session() as session:
    session.upload(b"warm", "warm.bin")
    session.download("warm.bin", directory / "warm.bin")
    before = peak()
    session.upload(directory / "large.bin")
    session.download("large.bin", directory / "back.bin")
    print(json.dumps(peak() - before))
"""


@pytest.mark.parametrize("url", ["bubblewrap:", "docker:"])
def test_a_large_file_never_sits_whole_in_the_hosts_memory(url: str, tmp_path: Path) -> None:
    engine_pool(url, ready_session_instances=0).close()
    block = bytes(range(256)) * 4096
    with (tmp_path / "large.bin").open("wb") as file:
        for _ in range(128):
            file.write(block)
    command = [sys.executable, "-c", _THERE_AND_BACK, url, str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) < 40, "megabytes more at the peak"
    with (tmp_path / "large.bin").open("rb") as sent, (tmp_path / "back.bin").open("rb") as received:
        while piece := sent.read(1 << 20):
            assert received.read(1 << 20) == piece
        assert not received.read(1)
