"""Sandboxes in Docker: one container each, whose attached standard input and output carry the frames.

A container has no network, no capabilities, no way to gain any, a read-only root, an unprivileged user and Docker's
own filter on system calls; everything that it can write is in memory, within its limits. Docker closes its standard
input when the attached connection ends, even if the owner was killed; the supervisor then ends, and Docker removes the
container.
"""

# aiodocker passes extra parameters on as **kwargs without a type.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import uuid
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, cast

from greenroom.config.containers import CustomContainer
from greenroom.engines import measuring, owner
from greenroom.engines.base import (
    ControlGroups,
    Engine,
    Gauge,
    MemoryFrom,
    Resources,
    SandboxSpec,
    StreamSandbox,
    refuse_unfiltered,
    runner_command,
    sandbox_environment,
)
from greenroom.engines.docker import image as images
from greenroom.engines.docker.attachment import STDERR, Attachment
from greenroom.engines.docker.client import FAILURES, Daemon, status_of
from greenroom.engines.docker.container import (
    STARTING_SHARES,
    cause_of_end,
    end_all_of,
    give_full_share,
    limit_memory,
    pause,
    remove,
    remove_all,
    undo,
    unpause,
)
from greenroom.engines.docker.custom import CustomContainers, CustomSandbox
from greenroom.engines.docker.measuring import ContainerMeter
from greenroom.engines.watchdog import Watchdog
from greenroom.errors import EngineUnavailable, GreenroomError, ImageMissing, InvalidRequest
from greenroom.models import ContainerType
from greenroom.runner import seccomp

if TYPE_CHECKING:
    from aiodocker.containers import DockerContainer

_CHECK_TIMEOUT = 5.0
_START_TIMEOUT = 60.0
_STDERR_KEPT = 8192

# Each container has its own user, as many kernel limits apply per user (inotify, pipes, pending signals). The image has
# a name for each; they are few enough for an engine that maps users (rootless, or with userns-remap).
_FIRST_USER = 30_000
_USERS = 4096

# The supervisor's capabilities as root in gVisor's kernel: to change to the worker's user, kill it, and own its files.
_GVISOR_CAPABILITIES = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETPCAP", "SETUID"]

# The engine counts gVisor's own threads, and gVisor ends with the sandbox if it cannot create another. So gVisor limits
# the processes of the code itself, and the engine only keeps the total within bounds.
_GVISOR_THREADS = 256
_GVISOR_THREADS_PER_PROCESS = 12

# As named in Docker's system information.
_LIMITS = {"MemoryLimit": "the memory", "CpuCfsQuota": "the processors", "PidsLimit": "the processes"}
_log = logging.getLogger(__name__)


class DockerSandbox(StreamSandbox):
    """A container and the connection attached to it."""

    def __init__(
        self,
        daemon: Daemon,
        container: DockerContainer,
        attachment: Attachment,
        name: str,
        *,
        container_id: str,
        gives_way: bool,
        watchdog: Watchdog,
        on_end: Callable[[], None],
    ) -> None:
        self.id = name
        self._container_id = container_id
        self._gives_way = gives_way
        self._watchdog = watchdog
        self._on_end = on_end
        self._daemon = daemon
        self._container = container
        self._attachment = attachment
        self._errors = bytearray()
        self._ended = False
        self._end: asyncio.Task[None] | None = None
        self._meter = ContainerMeter(daemon, [name])

    async def send(self, data: bytes) -> None:
        await self._attachment.write(data)

    async def receive(self) -> bytes:
        while not self._ended:
            piece = await self._attachment.read()
            if piece is None:
                self._ended = True
                self._attachment.close()
                break
            stream, data = piece
            if stream == STDERR:
                self._errors += data
                del self._errors[:-_STDERR_KEPT]
            elif data:
                return data
        return b""

    async def kill(self) -> None:
        if self._end is None:
            self._end = asyncio.create_task(self._kill())
        await asyncio.shield(self._end)

    @property
    def sampling_interval(self) -> float:
        return self._meter.sampling_interval

    async def resources(self) -> Resources | None:
        return await self._meter.read()

    def gauge(self) -> Gauge | None:
        return self._meter.gauge(self._container_id)

    async def limit_memory(self, memory: int) -> None:
        await limit_memory(self._daemon, self.id, memory)

    async def take_full_share(self) -> None:
        if self._gives_way:
            self._gives_way = not await give_full_share(self._daemon, self.id)

    async def freeze(self) -> bool:
        if not await self._watchdog.is_on() or self._end is not None:
            return False
        return await pause(self._daemon, self.id)

    async def thaw(self) -> None:
        await unpause(self._daemon, self.id)

    async def diagnosis(self) -> str:
        said = self._errors.decode("utf-8", "replace").strip()
        if self._end is not None:
            return said
        match await cause_of_end(self._daemon, self.id):
            case "oom", _:
                return "it ran out of memory"
            case "killed", _:
                return said or "it was killed, probably because it ran out of memory"
            case "exit", code:
                return said or f"it exited with code {code}"
            case _:
                return said

    async def _kill(self) -> None:
        try:
            async with self._meter.until_removed():
                await remove(self._container, self.id)
        finally:
            self._attachment.close()
            self._meter.close()
            self._on_end()


class DockerEngine(Engine):
    """Starts sandboxes with a Docker engine, on this machine or elsewhere.

    Args:
        image: the image of the sandboxes; by default this version's for their type, as `greenroom-python:<version>`.
        runtime: the OCI runtime, such as `runsc` for gVisor; by default Docker's own.
        docker_host: the URL of the Docker engine; by default that of Docker's own command line.
        allow_unfiltered: whether sandboxes may run where system calls cannot be filtered.
    """

    name = "docker"
    packages_from = "image"
    copies_sessions = True
    container_types = frozenset(ContainerType)

    def __init__(
        self,
        *,
        image: str | None = None,
        runtime: str | None = None,
        docker_host: str | None = None,
        allow_unfiltered: bool = False,
    ) -> None:
        self._allow_unfiltered = allow_unfiltered
        self._container_type = ContainerType.PYTHON_LTS
        self._given_image = image
        self._runtime = runtime
        self._host = docker_host
        self._opened: Daemon | None = None
        self._undoings: set[asyncio.Task[None]] = set()
        self._users: set[int] = set()
        self._watchdog = Watchdog(f"{end_all_of.__module__}:{end_all_of.__name__}", owner.labels(), docker_host)
        self._memory_from = MemoryFrom.ELSEWHERE
        self._custom = CustomContainers(
            self._image,
            runtime,
            self._take_user,
            self._users.discard,
            self._see_through,
            users=range(_FIRST_USER, _FIRST_USER + _USERS),
        )

    @property
    def starts_give_way(self) -> bool:
        return not self._is_gvisor  # Debian 12's runsc cannot change the limits of a container

    @property
    def freezes(self) -> bool:
        return os.name == "posix"

    @property
    def memory_from(self) -> MemoryFrom:
        return self._memory_from

    async def check(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        self._container_type = container_type
        try:
            await self._check(self._daemon())
        except BaseException:
            await self.close()  # callers do not close an engine whose check failed
            raise

    async def start(self, spec: SandboxSpec) -> DockerSandbox:
        daemon = self._daemon()
        name = f"greenroom-{uuid.uuid4().hex[:12]}"
        container = daemon.client.containers.container(name)
        user = self._take_user()
        create = asyncio.ensure_future(daemon.client.containers.create(self._config(spec, user), name=name))
        attachment: Attachment | None = None
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                created = await asyncio.shield(create)  # a request to Docker cannot be cancelled
                attachment = await Attachment.open(daemon, name)
                await container.start()
        except BaseException as error:
            if attachment is not None:
                attachment.close()
            self._users.discard(user)
            await self._see_through(undo(create, container, name))
            if isinstance(error, FAILURES):
                raise self._refusal(daemon, error, "start a sandbox") from error
            raise
        return DockerSandbox(
            daemon,
            container,
            attachment,
            name,
            container_id=created.id,
            gives_way=self.starts_give_way,
            watchdog=self._watchdog,
            on_end=lambda: self._users.discard(user),
        )

    async def check_container(self, container: CustomContainer) -> None:
        try:
            await self._custom.check(self._daemon(), container, self._check_abilities, self.report)
        except BaseException:
            await self.close()
            raise

    async def start_container(self, spec: SandboxSpec) -> CustomSandbox:
        return await self._custom.start(self._daemon(), spec)

    async def sweep(self) -> int:
        daemon = self._daemon()
        try:
            return await remove_all(daemon, owner.is_gone)
        except FAILURES as error:
            raise self._refusal(daemon, error, "list containers") from error

    async def close(self) -> None:
        await self._watchdog.close()
        if self._undoings:
            await asyncio.wait(self._undoings)
        daemon, self._opened = self._opened, None
        if daemon is not None:
            await daemon.close()

    def _daemon(self) -> Daemon:
        if self._opened is None:
            self._opened = Daemon(self._host)
        return self._opened

    @property
    def _image(self) -> str:
        return self._given_image or images.default_image(self._container_type)

    @property
    def _is_gvisor(self) -> bool:
        return (self._runtime or "").rpartition(".")[2].startswith("runsc")

    def _take_user(self) -> int:
        while (user := _FIRST_USER + secrets.randbelow(_USERS)) in self._users:
            pass
        self._users.add(user)
        return user

    def _config(self, spec: SandboxSpec, user: int) -> dict[str, Any]:
        """Return the container's configuration. Deny by default: everything that a sandbox does not need is off."""
        limits = spec.limits
        # gVisor lets code open the files of process 1 if it has the same user. gVisor's users are separate from the
        # host's, so the supervisor is root there and only the worker has another user.
        settings: dict[str, object] = {
            "container_type": spec.container_type,
            "allow_unfiltered": self._allow_unfiltered,
        }
        processes = limits.pids
        ulimits = {"core": 0, "nofile": 4096}
        if self._is_gvisor:
            settings["worker_uid"] = user
            ulimits["nproc"] = limits.pids  # enforced by gVisor's kernel, for each of its users
            processes = _GVISOR_THREADS + _GVISOR_THREADS_PER_PROCESS * limits.pids
        environment = sandbox_environment(spec)
        scratch = f"rw,exec,nosuid,nodev,mode=1777,size={limits.disk}"
        return {
            "Image": self._image,
            "Entrypoint": runner_command("python3", json.dumps(settings)),
            "Cmd": [],
            # The image knows where its Python is.
            "Env": [f"{name}={value}" for name, value in environment.items() if name != "PATH"],
            "User": "0:0" if self._is_gvisor else f"{user}:{user}",
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
                "AutoRemove": True,
                "Runtime": self._runtime or "",
                "NetworkMode": "bridge" if limits.network else "none",
                "ReadonlyRootfs": True,
                "CapDrop": ["ALL"],
                "CapAdd": _GVISOR_CAPABILITIES if self._is_gvisor else [],
                "SecurityOpt": ["no-new-privileges"],
                "Memory": limits.memory,
                "MemorySwap": limits.memory,  # both together: no swap
                "OomKillDisable": False,
                "OomScoreAdj": 500,  # when the whole machine runs out of memory, sandboxes go first
                "KernelMemoryTCP": limits.memory // 4,  # version 1 of control groups counts it separately
                "NanoCpus": int(limits.cpus * 1e9),
                "CpuShares": STARTING_SHARES if self.starts_give_way else 0,
                "PidsLimit": processes,
                "Ulimits": [{"Name": name, "Soft": limit, "Hard": limit} for name, limit in ulimits.items()],
                "Tmpfs": {"/mnt/data": scratch, "/tmp": scratch},  # noqa: S108  in the sandbox
                "ShmSize": limits.memory // 4,
                "LogConfig": {"Type": "none"},  # a loop that prints must not fill the disk
                "Init": False,
            },
        }

    async def _check(self, daemon: Daemon) -> None:
        try:
            async with asyncio.timeout(_CHECK_TIMEOUT):
                info = cast("Mapping[str, Any]", await daemon.client.system.info())
                self._check_abilities(daemon, info)
                found = await daemon.client.images.inspect(self._image)
        except FAILURES as error:
            raise self._refusal(daemon, error, "answer") from error
        labels: dict[str, str] = found["Config"].get("Labels") or {}
        if labels.get(images.RUNNER_LABEL) != images.runner_digest():
            base = labels.get(images.BASE_LABEL, images.BASE_IMAGE)
            raise ImageMissing(
                f"The image {self._image!r} was not built for this version of Greenroom. "
                f"Rebuild it: {images.build_command(self._image, base, self._container_type)}"
            )

    def _check_abilities(self, daemon: Daemon, info: Mapping[str, Any]) -> None:
        if info["OSType"] != "linux":
            raise EngineUnavailable(
                f"The Docker engine at {daemon.address} runs {info['OSType']} containers. "
                "Switch it to Linux containers."
            )
        version = str(info.get("CgroupVersion") or "1")  # engines before 20.10 have only version 1 and do not report it
        self.control_groups = ControlGroups.VERSION_2 if version == "2" else ControlGroups.VERSION_1
        if info.get("MemTotal") == measuring.machine_memory():  # that of another machine or a virtual machine differs
            self._memory_from = MemoryFrom.THIS_MACHINE
        lacking = [what for key, what in _LIMITS.items() if not info.get(key)]
        if lacking:
            raise EngineUnavailable(
                f"The Docker engine at {daemon.address} cannot limit {' and '.join(lacking)} of a container. "
                "Enable control groups for it (a rootless engine needs version 2, delegated to its user)."
            )
        if self._runtime and self._runtime not in info["Runtimes"] and not self._runtime.startswith("io.containerd."):
            raise self._runtime_missing(daemon, sorted(info["Runtimes"]))
        # gVisor's own kernel supports filters, whether or not the host's does.
        filters = self._is_gvisor or any(option.startswith("name=seccomp") for option in info["SecurityOptions"])
        reason = seccomp.lacking(info["Architecture"], kernel_filters=filters)
        refuse_unfiltered(reason, allowed=self._allow_unfiltered)

    def _runtime_missing(self, daemon: Daemon, known: list[str]) -> EngineUnavailable:
        entry = json.dumps({"runtimes": {self._runtime: {"path": f"/usr/bin/{self._runtime}"}}})
        return EngineUnavailable(
            f"The Docker engine at {daemon.address} has no runtime {self._runtime!r}; it has {', '.join(known)}. "
            f"Install it there, register it in /etc/docker/daemon.json ({entry}) and restart Docker."
        )

    def _refusal(self, daemon: Daemon, error: BaseException, doing: str) -> GreenroomError:
        status = status_of(error)
        if status == 404 and "image" in str(error):
            command = images.build_command(self._image, container_type=self._container_type)
            return ImageMissing(f"Docker does not have the image {self._image!r}. Build it: {command}")
        if status == 400:
            return InvalidRequest(f"Docker cannot create a sandbox with these settings: {error}.")
        return daemon.unavailable(error, doing)

    async def _see_through(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine to its end even if the caller is cancelled again."""
        task = asyncio.create_task(coroutine)
        self._undoings.add(task)
        task.add_done_callback(self._undoings.discard)
        await asyncio.shield(task)
