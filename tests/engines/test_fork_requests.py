"""Requests for forked sandboxes if a resource is scarce or the engine was closed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from greenroom import EngineUnavailable
from greenroom.engines.base import SandboxSpec
from greenroom.engines.bubblewrap import cgroups
from greenroom.engines.bubblewrap.engine import BubblewrapEngine
from greenroom.engines.bubblewrap.template import NotNow, Template
from greenroom.testing.engines import skipping_without

# Shows a read-only file system that is mounted with flags, and remounts it as `enter` does.
PROTECT = """
import os, sys
from greenroom.runner import isolation
isolation._check("unshare", isolation._libc.unshare(isolation._NEWNS))
isolation._mount("none", "/", None, isolation._PRIVATE)
isolation._mount("tmpfs", sys.argv[1], "tmpfs", isolation._NOEXEC | isolation._NOSUID)
isolation._protect(sys.argv[1], isolation._NODEV)
print(os.statvfs(sys.argv[1]).f_flag & 15)
"""


def groups() -> list[str]:
    """The control groups of this process's sandboxes."""
    return [
        place for place, _, _ in os.walk(cgroups.MOUNT) if re.search(rf"/greenroom-\w+-{os.getpid()}-[^/]+$", place)
    ]


@contextlib.contextmanager
def far_end() -> Generator[tuple[Template, socket.socket, socket.socket]]:
    """A template whose other end is the test, and the sockets of both."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    nothing: Any = None  # it is not ended here
    with ours, theirs:
        yield Template(nothing, ours), ours, theirs
        asyncio.get_running_loop().remove_reader(ours)


def received(control: socket.socket) -> tuple[bytes, list[int]]:
    data, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 16)
    return data, descriptors


def fill(sender: socket.socket) -> int:
    sent = 0
    with contextlib.suppress(BlockingIOError):
        while sender.send(b"first"):
            sent += 1
    return sent


@contextlib.contextmanager
def answering(descriptors: list[int], answer: bytes) -> Generator[None]:
    with socket.socket(fileno=descriptors[0]) as connection:
        connection.send(answer)
        yield
    for descriptor in descriptors[1:]:
        os.close(descriptor)


@pytest.mark.parametrize("answer", [b"P", b"Bno memory"], ids=["without the descriptor", "too little memory"])
async def test_a_temporary_shortage_is_not_a_failure(answer: bytes) -> None:
    with far_end() as (template, _, control):
        fork = asyncio.create_task(template.fork({}, []))
        await asyncio.sleep(0)
        with answering(received(control)[1], answer), pytest.raises(NotNow):
            await fork


async def test_a_request_waits_for_a_template_that_has_too_many() -> None:
    with far_end() as (template, sender, control):
        waiting = fill(sender)
        fork = asyncio.create_task(template.fork({"mine": 1}, []))
        await asyncio.sleep(0)
        for _ in range(waiting):
            assert received(control) == (b"first", [])
        data, descriptors = await asyncio.to_thread(received, control)
        assert data == b'{"mine": 1}'
        with answering(descriptors, b"Bno memory"), pytest.raises(NotNow):
            await fork


async def test_a_request_does_not_wait_forever() -> None:
    with far_end() as (template, sender, _):
        fill(sender)
        with pytest.raises(NotNow):
            await template.fork({}, [])


async def test_nothing_starts_after_a_close() -> None:
    engine = BubblewrapEngine()
    with skipping_without("bubblewrap:"):
        await engine.check()
    if engine.fork_obstacle is not None:
        pytest.skip(engine.fork_obstacle)
    await engine.close()
    with pytest.raises(EngineUnavailable, match="was closed"):
        await engine.start(SandboxSpec())
    await engine.close()
    assert not groups()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_mount_keeps_its_flags_when_it_becomes_read_only(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROTECT, str(tmp_path)], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr:
        pytest.skip("no namespace of mounts can be made here")
    expected = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
    assert (done.stdout.strip(), done.stderr) == (str(expected), "")
