"""Custom containers: each is a pair of containers, one from the user's image and a relay that holds its namespaces.

The relay is process 1 in its own network and process namespaces, with no network except a loopback; the custom
container shares both. Connections reach it through the relay's standard streams, which only this process holds. When
they close, even because this process was killed, the relay ends, the kernel ends the processes in its namespace, and
Docker removes both containers: docs/decisions/0013-a-relay-into-custom-containers.md.
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import contextlib
import inspect
import ipaddress
import json
import logging
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, cast

from greenroom.config.containers import CustomContainer
from greenroom.engines import owner
from greenroom.engines.base import Connection, PortSandbox, Resources, SandboxSpec
from greenroom.engines.docker.attachment import STDERR, STDOUT, Attachment
from greenroom.engines.docker.client import FAILURES, Daemon, status_of
from greenroom.engines.docker.container import (
    STARTING_SHARES,
    cause_of_end,
    give_full_share,
    limit_memory,
    remove,
    undo,
)
from greenroom.engines.docker.egress import Egress, Network
from greenroom.engines.docker.filter import profile
from greenroom.engines.docker.image import build_command
from greenroom.engines.docker.measuring import ContainerMeter
from greenroom.engines.docker.pull import find_or_pull
from greenroom.errors import EngineUnavailable, GreenroomError, ImageMissing, InvalidRequest
from greenroom.progress import Report
from greenroom.runner import relay

if TYPE_CHECKING:
    from aiodocker.containers import DockerContainer

_CHECK_TIMEOUT = 10.0
_START_TIMEOUT = 60.0
_OUTPUT_KEPT = 8192
_RELAY_MEMORY = 96 << 20
_SHARING_RUNTIMES = ("runc", "crun", "io.containerd.runc.v2")
_MOST_LEAVING = 64  # connections to the proxy that are served; up to as many more wait
_READY = b"ready\n"
_WRITABLE = ("/mnt/data", "/run", "/tmp", "/var/tmp")  # noqa: S108  in the container

_log = logging.getLogger(__name__)


class CustomSandbox(PortSandbox):
    """A custom container with its relay."""

    def __init__(
        self,
        daemon: Daemon,
        name: str,
        containers: list[tuple[DockerContainer, str]],
        attachments: list[Attachment],
        *,
        egress: Egress | None,
        gives_way: bool,
        on_end: Callable[[], None],
    ) -> None:
        self.id = name
        self._daemon = daemon
        self._egress = egress
        self._gives_way = gives_way
        self._leaving: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(_MOST_LEAVING)
        self._containers = containers
        self._relay, self._program = attachments
        self._on_end = on_end
        self._output = bytearray()
        self._on_output: Callable[[str, bytes], None] = lambda _stream, _data: None
        self._link = relay.Link(self._relay.write, self._leave, first=1)
        self._tasks = [asyncio.create_task(self._read_relay()), asyncio.create_task(self._read_output())]
        self._end: asyncio.Task[None] | None = None
        self._meter = ContainerMeter(daemon, [name for _, name in containers])

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

    def listen(self, on_output: Callable[[str, bytes], None]) -> None:
        self._on_output = on_output

    @property
    def sampling_interval(self) -> float:
        return self._meter.sampling_interval

    async def resources(self) -> Resources | None:
        return await self._meter.read()

    async def limit_memory(self, memory: int) -> None:
        await limit_memory(self._daemon, self.id, memory)

    async def take_full_share(self) -> None:
        if self._gives_way:
            self._gives_way = not await give_full_share(self._daemon, self.id)

    async def kill(self) -> None:
        if self._end is None:
            self._end = asyncio.create_task(self._kill())
        await asyncio.shield(self._end)

    async def diagnosis(self) -> str:
        match await cause_of_end(self._daemon, self.id):
            case "oom", _:
                return "it ran out of memory"
            case "killed", _:
                return "it was killed, perhaps because it ran out of memory"
            case "exit", code:
                return f"it exited with code {code}"
            case _:
                return ""

    async def _kill(self) -> None:
        self._link.close("The container was stopped.")
        try:
            async with self._meter.until_removed():
                await asyncio.gather(*(remove(container, name) for container, name in self._containers))
        finally:
            for task in (*self._tasks, *self._leaving):
                task.cancel()
            self._relay.close()
            self._program.close()
            self._on_end()

    async def _read_relay(self) -> None:
        """Pass the relay's data to the link; the relay is trusted no more than the container."""
        try:
            while (piece := await self._relay.read()) is not None:
                if piece[0] == STDOUT:
                    self._link.feed(piece[1])
                else:
                    _log.debug("The relay of %s: %r", self.id, piece[1][:1000])
            self._link.close("The container has ended.")
        except relay.Violation as error:
            _log.warning("The relay of the container %s sent %s.", self.id, error)
            self._link.close("The relay of the container violated its protocol.")

    async def _read_output(self) -> None:
        while (piece := await self._program.read()) is not None:
            self._output += piece[1]
            del self._output[:-_OUTPUT_KEPT]
            self._on_output("stderr" if piece[0] == STDERR else "stdout", piece[1])

    def _leave(self, channel: relay.Channel, _body: bytes) -> None:
        """Start serving a connection from the container to the proxy."""
        if self._egress is None:
            raise relay.Violation("a connection, although there is no proxy")
        # Connections that the container has closed count until they end here; later ones wait until there is room.
        serve = self._serve(self._egress, channel) if len(self._leaving) < 2 * _MOST_LEAVING else channel.close()
        task = asyncio.create_task(serve)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _serve(self, egress: Egress, channel: relay.Channel) -> None:
        async with self._places:
            await egress.serve(channel)


class CustomContainers:
    """Starts custom containers for one engine.

    Args:
        relay_image: any image with Python 3.10 or later.
        runtime: the OCI runtime of the engine.
        take_user, return_user: allocate and release a user ID that no other container of ours has.
        see_through: runs a coroutine to its end even if the caller is cancelled.
        users: the IDs that `take_user` can return.
    """

    def __init__(
        self,
        relay_image: str,
        runtime: str | None,
        take_user: Callable[[], int],
        return_user: Callable[[int], None],
        see_through: Callable[[Coroutine[Any, Any, None]], Coroutine[Any, Any, None]],
        *,
        users: range,
    ) -> None:
        self._relay_image = relay_image
        self._runtime = runtime
        self._take_user = take_user
        self._return_user = return_user
        self._users = users
        self._gives_way = True
        self._filtered = True
        self._volumes: frozenset[str] = frozenset()
        self._see_through = see_through

    async def check(
        self,
        daemon: Daemon,
        container: CustomContainer,
        check_abilities: Callable[[Daemon, Mapping[str, Any]], None],
        report: Report,
    ) -> None:
        """Like `Engine.check_container`; `report` receives the progress of a pull."""
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                info = cast("Mapping[str, Any]", await daemon.client.system.info())
            check_abilities(daemon, info)
            self._check_runtime(self._runtime or str(info.get("DefaultRuntime", "")))
            self._filtered = any(option.startswith("name=seccomp") for option in info["SecurityOptions"])
            await self._find_relay_image(daemon)
            found = await find_or_pull(daemon, container, report)
            self._check_user(container.image, str(found["Config"].get("User") or ""))
            # Docker would create a directory on its disk for each.
            self._volumes = frozenset(found["Config"].get("Volumes") or ())
        except FAILURES as error:
            raise daemon.unavailable(error, "answer") from error

    def _check_runtime(self, runtime: str) -> None:
        """Refuse a runtime that might not share the relay's processes: its containers would outlive their owner."""
        if runtime not in _SHARING_RUNTIMES:
            raise EngineUnavailable(
                f"The runtime of custom containers must be one of {', '.join(_SHARING_RUNTIMES)}, not {runtime!r}, "
                "whose containers would outlive this process. Omit the option runtime."
            )

    def _check_user(self, image: str, user: str) -> None:
        """Refuse an image whose user could also be that of a relay, which shares its namespace, or of a sandbox."""
        for number in user.split(":"):
            if number.isascii() and number.isdecimal() and len(number) <= 10 and int(number) in self._users:
                raise InvalidRequest(
                    f"The image {image!r} must not have the user {user!r}: the users {self._users.start} to "
                    f"{self._users.stop - 1} are reserved for Greenroom's own containers. Build it with another USER."
                )

    async def start(self, daemon: Daemon, spec: SandboxSpec) -> CustomSandbox:
        """Like `Engine.start_container`."""
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
                await asyncio.shield(create)  # a request to Docker cannot be cancelled
                attachment = await Attachment.open(daemon, name)
                undoing.callback(attachment.close)
                await container.start()
                return container, attachment

            egress = Egress(lambda: _networks(daemon), FAILURES) if spec.limits.network else None
            port = None if egress is None else _proxy_port(spec)
            relay_container, relay_attachment = await begin(relay_name, _relay_config(self._relay_image, user, port))
            await _wait_for_relay(relay_attachment)
            container, attachment = await begin(name, self._config(spec, relay_name, port))
            undoing.pop_all()
        return CustomSandbox(
            daemon,
            name,
            [(relay_container, relay_name), (container, name)],
            [relay_attachment, attachment],
            egress=egress,
            gives_way=self._gives_way,
            on_end=lambda: self._return_user(user),
        )

    def _config(self, spec: SandboxSpec, relay_name: str, proxy_port: int | None) -> dict[str, Any]:
        limits, container = spec.limits, spec.container
        assert container is not None  # noqa: S101  checked by the caller
        scratch = f"rw,exec,nosuid,nodev,mode=1777,size={limits.disk}"
        return {
            "Image": container.image,
            # As in Azure and Kubernetes, a command replaces the image's entry point and its arguments.
            **({"Entrypoint": list(container.command)} if container.command else {}),
            **({"Cmd": list(container.args)} if container.args else {}),
            "Env": [f"{name}={value}" for name, value in _environment(container, proxy_port).items()],
            "Labels": owner.labels(),
            "Healthcheck": {"Test": ["NONE"]},
            "Tty": False,
            "AttachStdout": True,
            "AttachStderr": True,
            "HostConfig": {
                **_HARDENED,
                "SecurityOpt": ["no-new-privileges", *([f"seccomp={profile()}"] if self._filtered else [])],
                "Runtime": self._runtime or "",
                "NetworkMode": f"container:{relay_name}",
                "PidMode": f"container:{relay_name}",
                "IpcMode": "private",
                # Docker cannot limit a writable layer on most disks, so all that a container writes is kept in memory.
                "ReadonlyRootfs": True,
                "Tmpfs": dict.fromkeys(sorted({*_WRITABLE, *self._volumes}), scratch),
                "Memory": limits.memory,
                "MemorySwap": limits.memory,  # both together: no swap
                "KernelMemoryTCP": limits.memory // 4,  # version 1 of control groups counts it separately
                "NanoCpus": int(limits.cpus * 1e9),
                "CpuShares": STARTING_SHARES if self._gives_way else 0,
                "PidsLimit": limits.pids,
                "ShmSize": limits.memory // 4,
            },
        }

    async def _find_relay_image(self, daemon: Daemon) -> None:
        try:
            await daemon.client.images.inspect(self._relay_image)
        except FAILURES as error:
            if status_of(error) != 404:
                raise
            raise ImageMissing(
                f"Docker does not have the image {self._relay_image!r}, which contains the relay of custom containers. "
                f"Build it: {build_command(self._relay_image)}"
            ) from error


def _refusal(daemon: Daemon, error: BaseException) -> GreenroomError:
    if status_of(error) == 400:
        return InvalidRequest(f"Docker cannot create a container with these settings: {error}.")
    return daemon.unavailable(error, "start a container")


async def _wait_for_relay(attachment: Attachment) -> None:
    said = b""
    while said != _READY:
        piece = await attachment.read()
        if piece is None or piece[0] == STDERR or len(said) > len(_READY):
            reason = (said + (piece[1] if piece else b"")).decode("utf-8", "replace").strip()
            raise EngineUnavailable(f"The relay of a custom container did not start: {reason[-1000:]}")
        said += piece[1]


def _relay_config(image: str, user: int, proxy_port: int | None) -> dict[str, Any]:
    return {
        "Image": image,
        "Entrypoint": ["python3", "-I", "-S", "-c", inspect.getsource(relay), json.dumps({"proxy_port": proxy_port})],
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
            "SecurityOpt": ["no-new-privileges"],
            "NetworkMode": "none",
            "Memory": _RELAY_MEMORY,
            "MemorySwap": _RELAY_MEMORY,
            "PidsLimit": 16,
            "ReadonlyRootfs": True,
            "IpcMode": "none",
        },
    }


def _proxy_port(spec: SandboxSpec) -> int:
    return 3128 if spec.container is None or spec.container.target_port != 3128 else 3129


def _environment(container: CustomContainer, proxy_port: int | None) -> dict[str, str]:
    own = {name: value.get_secret_value() for name, value in container.env.items()}
    if proxy_port is None:
        return own
    proxy = f"http://127.0.0.1:{proxy_port}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    near = "localhost,127.0.0.1,::1"
    return {**dict.fromkeys(names, proxy), "NO_PROXY": near, "no_proxy": near, **own}


async def _networks(daemon: Daemon) -> list[Network]:
    """Docker's networks on the engine's machine."""
    found: list[Network] = []
    async with await daemon.request("GET", "networks") as response:
        networks: Any = await response.json()
    for network in networks:
        for configuration in cast("list[dict[str, str]]", (network.get("IPAM") or {}).get("Config") or []):
            with contextlib.suppress(ValueError, KeyError, TypeError):
                found.append(ipaddress.ip_network(configuration["Subnet"], strict=False))
    return found


_HARDENED: Mapping[str, Any] = {
    "AutoRemove": True,
    "CapDrop": ["ALL"],
    "OomKillDisable": False,
    "OomScoreAdj": 500,  # when the whole machine runs out of memory, sandboxes go first
    "Ulimits": [
        {"Name": "core", "Soft": 0, "Hard": 0},
        {"Name": "nofile", "Soft": 4096, "Hard": 4096},
    ],
    "LogConfig": {"Type": "none"},  # a loop that prints must not fill the disk
    "Init": False,
}
