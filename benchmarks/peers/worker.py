"""One peer, driven over standard input and output: `python worker.py NAME IMAGE`, in the peers' own environment.

The first line that it writes is `{"version": …, "directory": …, "containers": …}`. If it is killed, it leaves this
directory, and containers with this name prefix. Then each line that it reads is an order: `{"do": "open"}`,
`{"do": "run", "code": …}`, `{"do": "run_in_each", "code": …, "times": …}` or `{"do": "close"}`; it answers each with
`{}`, or with `{"error": …}`. It ends when its standard input does, or on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from importlib.metadata import version

CONTAINERS = f"greenroom-peer-{os.getpid()}-"
_numbers = itertools.count(1)


def new_name():
    """Return a new name for a container: the previous one can still be in use."""
    return f"{CONTAINERS}{next(_numbers)}"


class IPykernel:
    """A kernel on the host, without any isolation."""

    package = "ipykernel"

    def __init__(self, image):
        self._opened = []

    def open(self):
        from jupyter_client.manager import KernelManager

        manager = KernelManager()
        manager.start_kernel()
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        self._opened.append((manager, client))

    def run(self, code):
        _, client = self._opened[-1]
        reply = client.execute_interactive(code, timeout=120, output_hook=lambda message: None)
        assert reply["content"]["status"] == "ok", reply

    def run_in_each(self, code, times):
        """Have all kernels run the code this many times, at the same time: all requests are sent first."""
        for _ in range(times):
            asked = [(client, client.execute(code)) for _, client in self._opened]
            for client, number in asked:
                while client.get_shell_msg(timeout=120)["parent_header"]["msg_id"] != number:
                    pass

    def close(self):
        while self._opened:
            manager, client = self._opened.pop()
            client.stop_channels()
            manager.shutdown_kernel(now=True)


class DockerExec:
    """A container that sleeps, and `docker exec` for each piece of code: no variable persists."""

    package = None

    def __init__(self, image):
        self._image = image
        self._name = None

    def open(self):
        self._name = new_name()
        command = ["docker", "run", "--detach", "--rm", "--network=none", "--name", self._name, "--entrypoint", "sleep"]
        subprocess.run([*command, self._image, "3600"], check=True, capture_output=True)

    def run(self, code):
        subprocess.run(["docker", "exec", self._name, "python3", "-c", code], check=True, capture_output=True)

    def close(self):
        subprocess.run(["docker", "rm", "--force", self._name], check=False, capture_output=True)


class LlmSandbox:
    """llm-sandbox's interactive session, whose variables persist as in ours."""

    package = "llm-sandbox"

    def __init__(self, image):
        self._image = image

    def open(self):
        from llm_sandbox import InteractiveSandboxSession

        # By default it creates a virtual environment in each new container, which takes seconds. The image has one.
        link = "mkdir -p /sandbox && ln -s /opt/venv /sandbox/.sandbox-venv && exec sleep 3600"
        self._session = InteractiveSandboxSession(
            lang="python",
            image=self._image,
            skip_environment_setup=True,
            runtime_configs={
                "name": new_name(),
                "user": "root",
                "command": ["sh", "-c", link],
                "init": True,  # to end on SIGTERM
            },
        )
        self._session.open()

    def run(self, code):
        assert self._session.run(code).exit_code == 0

    def close(self):
        self._session.close()


class AutoGen:
    """AutoGen's DockerCommandLineCodeExecutor: a new Python for each piece of code."""

    package = "autogen-ext"

    def __init__(self, image):
        self._image = image
        self._loop = asyncio.new_event_loop()

    def open(self):
        from autogen_ext.code_executors.docker import DockerCommandLineCodeExecutor

        self._directory = tempfile.TemporaryDirectory()
        os.chmod(self._directory.name, 0o755)  # for the image's user
        self._executor = DockerCommandLineCodeExecutor(
            image=self._image, container_name=new_name(), work_dir=self._directory.name
        )
        self._loop.run_until_complete(self._executor.start())

    def run(self, code):
        from autogen_core import CancellationToken
        from autogen_core.code_executor import CodeBlock

        blocks = [CodeBlock(code=code, language="python")]
        result = self._loop.run_until_complete(self._executor.execute_code_blocks(blocks, CancellationToken()))
        assert result.exit_code == 0, result

    def close(self):
        # Its shell ignores SIGTERM, and Docker would wait for it for ten seconds.
        subprocess.run(["docker", "kill", self._executor.container_name], check=False, capture_output=True)
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(self._executor.stop())
        self._directory.cleanup()


class Smolagents:
    """smolagents' DockerExecutor: a Jupyter kernel gateway in a container, over the network."""

    package = "smolagents"

    def __init__(self, image):
        self._image = image

    def open(self):
        from smolagents.monitoring import AgentLogger, LogLevel
        from smolagents.remote_executors import DockerExecutor

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = ["jupyter", "kernelgateway", "--KernelGatewayApp.ip=0.0.0.0", "--KernelGatewayApp.port=8888"]
        self._executor = DockerExecutor(
            [],
            AgentLogger(level=LogLevel.OFF),
            port=port,
            image_name=self._image,
            build_new_image=False,
            container_run_kwargs={
                "name": new_name(),
                "command": command,
                "environment": {"HOME": "/tmp", "IPYTHONDIR": "/tmp/ipython"},
            },
        )

    def run(self, code):
        self._executor.run_code_raise_errors(code)

    def close(self):
        self._executor.container.kill()  # its own cleanup waits ten seconds for the gateway to end
        self._executor.container.remove(force=True)
        del self._executor.container


PEERS = {
    "ipykernel": IPykernel,
    "docker exec": DockerExec,
    "llm-sandbox": LlmSandbox,
    "AutoGen": AutoGen,
    "smolagents": Smolagents,
}


def main():
    name, image = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a peer's printed output must not be taken for an answer
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="greenroom-peer-", ignore_cleanup_errors=True) as directory:
        for variable in ("TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR"):
            os.environ[variable] = tempfile.tempdir = directory
        serve(name, image, directory, lambda **content: print(json.dumps(content), file=answers, flush=True))


def serve(name, image, directory, answer):
    """Carry out orders until there are no more."""
    kind = PEERS[name]
    peer = kind(image)
    installed = "" if kind.package is None else version(kind.package)
    answer(version=installed, directory=directory, containers=CONTAINERS)
    is_open = False
    try:
        for line in sys.stdin:
            order = json.loads(line)
            try:
                match order["do"]:
                    case "open":
                        is_open = True
                        peer.open()
                    case "run":
                        peer.run(order["code"])
                    case "run_in_each":
                        peer.run_in_each(order["code"], order["times"])
                    case "close" if is_open:
                        is_open = False
                        peer.close()
                answer()
            except Exception as error:
                answer(error=f"{type(error).__name__}: {error}"[:300])
    finally:
        if is_open:
            with contextlib.suppress(Exception):
                peer.close()


if __name__ == "__main__":
    main()
