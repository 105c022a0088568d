"""The Docker daemon stops under load and comes back: lost sessions are reported, and the pool continues."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import greenroom
from greenroom.testing import engine_pool

IMAGE = f"greenroom-python:{greenroom.__version__}"


class Daemon:
    """A separate Docker engine, so that the test can stop it."""

    def __init__(self, directory: Path) -> None:
        self.url = f"unix://{directory}/docker.sock"
        self._command = [
            # In a separate network: otherwise, without its own bridge, it would remove that of the machine's engine.
            *("unshare", "--net", "dockerd", "--data-root", f"{directory}/data", "--exec-root", f"{directory}/exec"),
            *("--pidfile", f"{directory}/pid", "--host", self.url, "--bridge", "none", "--iptables=false"),
        ]
        self._log = (directory / "log").open("wb")
        self._process: subprocess.Popen[bytes] | None = None

    def docker(self, *arguments: str) -> list[str]:
        return ["docker", "--host", self.url, *arguments]

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=self._log, stderr=self._log, start_new_session=True)
        deadline = time.monotonic() + 60
        while subprocess.run(self.docker("version"), capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, "the engine does not respond"
            time.sleep(0.2)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        self.stop()
        self._log.close()


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    engine_pool("docker:", ready_session_instances=0).close()
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        pytest.skip("a Docker engine of its own needs dockerd and root")
    directory = Path(tempfile.mkdtemp(prefix="greenroom-daemon-"))
    daemon = Daemon(directory)
    try:
        daemon.start()
        with subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE) as save:
            subprocess.run(daemon.docker("load", "--quiet"), stdin=save.stdout, capture_output=True, check=True)
        yield daemon
    finally:
        daemon.close()
        subprocess.run(["umount", "--recursive", "--quiet", directory], capture_output=True, check=False)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.timeout(400)
def test_a_pool_outlives_its_docker_engine(daemon: Daemon) -> None:
    options = {"preload": (), "ready_session_instances": 1, "max_concurrent_sessions": 8}
    with engine_pool(f"docker:?docker_host={daemon.url}", **options) as pool, ThreadPoolExecutor(4) as threads:
        sessions = [pool.session(f"user-{number}") for number in range(4)]
        for session in sessions:
            session.execute("x = 1").raise_for_error()

        def run(session: greenroom.Session) -> BaseException | None:
            try:
                session.execute("import time\ntime.sleep(300)", timeout=300)
            except greenroom.GreenroomError as error:
                return error
            return None

        running = [threads.submit(run, session) for session in sessions]
        time.sleep(1)
        daemon.stop()
        assert {type(future.result(120)) for future in running} == {greenroom.SandboxLost}
        assert pool.sessions() == []
        with pytest.raises(greenroom.EngineUnavailable):
            sessions[0].execute("1")
        daemon.start()
        deadline = time.monotonic() + 60
        while True:
            try:
                execution = sessions[0].execute("'x' in globals()")
            except greenroom.EngineUnavailable:
                assert time.monotonic() < deadline
                time.sleep(0.5)
            else:
                break
        assert execution.result == "False"
        assert pool.status().idle == 1
