"""bubblewrap's errors if it cannot create sandboxes, even as root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import greenroom
from greenroom import EngineUnavailable
from greenroom.testing import engine_pool

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

_SETUID, _NET_ADMIN, _SYS_ADMIN = 7, 12, 21

_WITHOUT_CAPABILITY = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(24, int(sys.argv[1]), 0, 0, 0)
os.execv(sys.executable, [sys.executable, "-c", "import greenroom; greenroom.connect('bubblewrap:')"])
"""


@pytest.fixture(scope="module", autouse=True)
def _needs_bubblewrap() -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()


@pytest.mark.parametrize("capability", [_SETUID, _NET_ADMIN, _SYS_ADMIN])
def test_root_in_a_container_gets_advice(capability: int) -> None:
    command = [sys.executable, "-c", _WITHOUT_CAPABILITY, str(capability)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    message = ended.stderr.splitlines()[-1]
    assert message.startswith("greenroom.errors.EngineUnavailable: bubblewrap lacks privileges")
    assert "--security-opt seccomp=unconfined --security-opt systempaths=unconfined" in message


@pytest.mark.parametrize("part", [".", "lib/python3*/site-packages"])
def test_an_interpreter_that_the_sandboxes_user_cannot_read_is_named(bare_python: Path, part: str) -> None:
    private = next(bare_python.parent.parent.glob(part)) if part != "." else bare_python.parent.parent
    private.chmod(0o700)
    try:
        with pytest.raises(EngineUnavailable, match=r"cannot read \S+\. Let all users read the interpreter") as refused:
            greenroom.connect("bubblewrap:", python=str(bare_python), ready_session_instances=0)
        assert f"chmod -R o+rX {bare_python.parent.parent}" in str(refused.value)
    finally:
        private.chmod(0o755)


@pytest.mark.parametrize("python", ["/opt/greenroom/bin/python", "/opt/bin/python"])
def test_an_environment_in_the_place_of_the_runner_is_named(python: str) -> None:
    place = str(Path(python).parent.parent)
    with pytest.raises(EngineUnavailable, match=rf"must not be {place}: sandboxes have Greenroom's runner at"):
        greenroom.connect("bubblewrap:", python=python, ready_session_instances=0)


def test_an_engine_that_is_only_checked_does_not_have_to_be_closed(tmp_path: Path) -> None:
    program = (
        "import asyncio\n"
        "from greenroom.engines.bubblewrap.engine import BubblewrapEngine\n"
        "asyncio.run(BubblewrapEngine().check())"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}  # everything should be created in there
    subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)
