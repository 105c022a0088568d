"""Custom containers: each is a pair of containers, one from the user's image and a relay that holds its namespaces.

The relay, process 1 of a network and of processes of its own, has no network but a loopback; the custom container
shares both. Connections reach it through the relay's standard streams, which only this process holds. When they close,
even because this process was killed, the relay ends, the kernel ends the processes that share its namespace, and Docker
removes both containers: docs/decisions/0011-a-relay-into-custom-containers.md.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, cast

from greenroom.config.containers import CustomContainer
from greenroom.engines import owner
from greenroom.engines.base import Connection, PortSandbox, SandboxSpec
from greenroom.engines.docker.attachment import STDERR, STDOUT, Attachment
from greenroom.engines.docker.client import FAILURES, Daemon, status_of
from greenroom.engines.docker.image import build_command
from greenroom.engines.docker.removal import remove, undo
from greenroom.errors import EngineUnavailable, GreenroomError, ImageMissing, InvalidRequest
from greenroom.runner import relay

if TYPE_CHECKING:
    from aiodocker.containers import DockerContainer

_CHECK_TIMEOUT = 10.0
_START_TIMEOUT = 60.0
_OUTPUT_KEPT = 8192
_RELAY_MEMORY = 96 << 20
_READY = b"ready\n"

_log = logging.getLogger(__name__)


class CustomSandbox(PortSandbox):
    """A custom container with its relay."""

    def __init__(
        self,
        name: str,
        containers: list[tuple[DockerContainer, str]],
        attachments: list[Attachment],
        on_end: Callable[[], None],
    ) -> None:
        self.id = name
        self._containers = containers
        self._relay, self._program = attachments
        self._on_end = on_end
        self._output = bytearray()
        self._link = relay.Link(self._relay.write, self._refuse, first=1)
        self._tasks = [asyncio.create_task(self._read_relay()), asyncio.create_task(self._read_output())]
        self._end: asyncio.Task[None] | None = None

    async def connect(self, port: int) -> Connection:
        channel = await self._link.open(relay.PORT.pack(port))
        try:
            await channel.opened()
        except BaseException:
            await channel.close()
            raise
        return channel

    async def ended(self) -> None:
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    def output(self) -> str:
        return self._output.decode("utf-8", "replace")

    async def kill(self) -> None:
        if self._end is None:
            self._end = asyncio.create_task(self._kill())
        await asyncio.shield(self._end)

    async def diagnosis(self) -> str:
        return self.output().strip()

    async def _kill(self) -> None:
        self._link.close("The container was ended.")
        try:
            await asyncio.gather(*(remove(container, name) for container, name in self._containers))
        finally:
            for task in self._tasks:
                task.cancel()
            self._relay.close()
            self._program.close()
            self._on_end()

    async def _read_relay(self) -> None:
        """Pass what the relay sends to the link; the relay is as little trusted as the container."""
        try:
            while (piece := await self._relay.read()) is not None:
                if piece[0] == STDOUT:
                    self._link.feed(piece[1])
                else:
                    _log.debug("The relay of %s: %r", self.id, piece[1][:1000])
            self._link.close("The container has ended.")
        except relay.Violation as error:
            _log.warning("The relay of the container %s sent %s.", self.id, error)
            self._link.close("The relay of the container broke its protocol.")

    async def _read_output(self) -> None:
        while (piece := await self._program.read()) is not None:
            self._output += piece[1]
            del self._output[:-_OUTPUT_KEPT]

    def _refuse(self, channel: relay.Channel, body: bytes) -> None:
        raise relay.Violation("a connection that nobody asked for")


class CustomContainers:
    """Starts custom containers for one engine.

    Args:
        relay_image: any image with Python 3.10 or later.
        runtime: the OCI runtime of the engine.
        take_user, return_user: a number of a user that no other container of ours has.
        see_through: runs a coroutine to its end even if the caller is cancelled.
    """

    def __init__(
        self,
        relay_image: str,
        runtime: str | None,
        take_user: Callable[[], int],
        return_user: Callable[[int], None],
        see_through: Callable[[Coroutine[Any, Any, None]], Coroutine[Any, Any, None]],
    ) -> None:
        self._relay_image = relay_image
        self._runtime = runtime
        self._take_user = take_user
        self._return_user = return_user
        self._see_through = see_through

    async def check(
        self, daemon: Daemon, container: CustomContainer, check_abilities: Callable[[Daemon, Mapping[str, Any]], None]
    ) -> None:
        """As `Engine.check_container`."""
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                check_abilities(daemon, cast("Mapping[str, Any]", await daemon.client.system.info()))
            await self._find_relay_image(daemon)
            await self._find_image(daemon, container)
        except FAILURES as error:
            raise daemon.unavailable(error, "answer") from error

    async def start(self, daemon: Daemon, spec: SandboxSpec) -> CustomSandbox:
        """As `Engine.start_container`."""
        name = f"greenroom-{uuid.uuid4().hex[:12]}"
        user = self._take_user()
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                return await self._start(daemon, spec, name, user)
        except BaseException as error:
            self._return_user(user)
            if isinstance(error, FAILURES):
                raise _refusal(daemon, error) from error
            raise

    async def _start(self, daemon: Daemon, spec: SandboxSpec, name: str, user: int) -> CustomSandbox:
        relay_name = f"{name}-relay"
        async with contextlib.AsyncExitStack() as undoing:

            async def begin(name: str, config: dict[str, Any]) -> tuple[DockerContainer, Attachment]:
                container = daemon.client.containers.container(name)
                create = asyncio.ensure_future(daemon.client.containers.create(config, name=name))
                undoing.push_async_callback(lambda: self._see_through(undo(create, container, name)))
                await asyncio.shield(create)  # a request to Docker cannot be taken back
                attachment = await Attachment.open(daemon, name)
                undoing.callback(attachment.close)
                await container.start()
                return container, attachment

            relay_container, relay_attachment = await begin(relay_name, _relay_config(self._relay_image, user))
            await _wait_for_relay(relay_attachment)
            container, attachment = await begin(name, _config(spec, relay_name, self._runtime or ""))
            undoing.pop_all()
        return CustomSandbox(
            name,
            [(relay_container, relay_name), (container, name)],
            [relay_attachment, attachment],
            lambda: self._return_user(user),
        )

    async def _find_relay_image(self, daemon: Daemon) -> None:
        try:
            await daemon.client.images.inspect(self._relay_image)
        except FAILURES as error:
            if status_of(error) != 404:
                raise
            raise ImageMissing(
                f"Docker has no image {self._relay_image!r}, from which custom containers get their relay. "
                f"Make it: {build_command(self._relay_image)}"
            ) from error

    async def _find_image(self, daemon: Daemon, container: CustomContainer) -> None:
        try:
            await daemon.client.images.inspect(container.image)
        except FAILURES as error:
            if status_of(error) != 404:
                raise
            raise ImageMissing(f"Docker has no image {container.image!r}.") from error


def _refusal(daemon: Daemon, error: BaseException) -> GreenroomError:
    if status_of(error) == 400:
        return InvalidRequest(f"Docker cannot make a container with these settings: {error}.")
    return daemon.unavailable(error, "start a container")


async def _wait_for_relay(attachment: Attachment) -> None:
    said = b""
    while said != _READY:
        piece = await attachment.read()
        if piece is None or piece[0] == STDERR or len(said) > len(_READY):
            reason = (said + (piece[1] if piece else b"")).decode("utf-8", "replace").strip()
            raise EngineUnavailable(f"The relay of a custom container did not start: {reason[-1000:]}")
        said += piece[1]


def _relay_config(image: str, user: int) -> dict[str, Any]:
    return {
        "Image": image,
        "Entrypoint": ["python3", "-I", "-S", "-c", inspect.getsource(relay), json.dumps({"proxy_port": None})],
        "Cmd": [],
        "User": f"{user}:{user}",
        "WorkingDir": "/",
        "Hostname": "greenroom",
        "Labels": owner.labels(),
        "Healthcheck": {"Test": ["NONE"]},
        "Tty": False,
        "OpenStdin": True,
        "StdinOnce": True,  # with AutoRemove: no container outlives its owner
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {
            **_HARDENED,
            "NetworkMode": "none",
            "Memory": _RELAY_MEMORY,
            "MemorySwap": _RELAY_MEMORY,
            "PidsLimit": 16,
            "ReadonlyRootfs": True,
            "IpcMode": "none",
        },
    }


def _config(spec: SandboxSpec, relay_name: str, runtime: str) -> dict[str, Any]:
    limits, container = spec.limits, spec.container
    assert container is not None  # noqa: S101  as the caller found
    scratch = f"rw,exec,nosuid,nodev,mode=1777,size={limits.disk}"
    return {
        "Image": container.image,
        # As in Azure and Kubernetes, a command replaces the image's entry point, and its arguments too.
        **({"Entrypoint": list(container.command)} if container.command else {}),
        **({"Cmd": list(container.args)} if container.args else {}),
        "Env": [f"{name}={value.get_secret_value()}" for name, value in container.env.items()],
        "Labels": owner.labels(),
        "Healthcheck": {"Test": ["NONE"]},
        "Tty": False,
        "AttachStdout": True,
        "AttachStderr": True,
        "HostConfig": {
            **_HARDENED,
            "Runtime": runtime,
            "NetworkMode": f"container:{relay_name}",
            "PidMode": f"container:{relay_name}",
            "IpcMode": "private",
            "ReadonlyRootfs": True,
            "Memory": limits.memory,
            "MemorySwap": limits.memory,  # both together: no swap
            "KernelMemoryTCP": limits.memory // 4,  # counted separately only by version 1 of control groups
            "NanoCpus": int(limits.cpus * 1e9),
            "PidsLimit": limits.pids,
            "Tmpfs": dict.fromkeys(("/mnt/data", "/run", "/tmp", "/var/tmp"), scratch),  # noqa: S108  in it
            "ShmSize": limits.memory // 4,
        },
    }


_HARDENED: Mapping[str, Any] = {
    "AutoRemove": True,
    "CapDrop": ["ALL"],
    "SecurityOpt": ["no-new-privileges"],
    "OomKillDisable": False,
    "OomScoreAdj": 500,  # when the whole machine runs out, sandboxes go first
    "Ulimits": [
        {"Name": "core", "Soft": 0, "Hard": 0},
        {"Name": "nofile", "Soft": 4096, "Hard": 4096},
    ],
    "LogConfig": {"Type": "none"},  # a loop that prints must not fill the disk
    "Init": False,
}
