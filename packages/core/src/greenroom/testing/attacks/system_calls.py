"""Attacks by system calls that code in a sandbox cannot make, or cannot use on other processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from greenroom.sessions import Session
from greenroom.testing.attacks.base import AttackBase, answers, ask, attack, works

_REFUSED = frozenset({"EPERM", "EACCES", "ENOSYS"})


@dataclass(frozen=True, slots=True)
class Call:
    """A system call with its numbers, its arguments as code, and the errors that count as a refusal."""

    x86_64: int | None
    aarch64: int | None
    arguments: str = "0, 0, 0, 0, 0"
    refused: frozenset[str] = field(default=_REFUSED)

    @property
    def code(self) -> str:
        return f"call(({self.x86_64}, {self.aarch64})[column], {self.arguments})"


_PATHS = "b'/tmp', b'/mnt/data'"
_CHILD = (
    "child = subprocess.Popen(['sleep', '60'])\n"
    "buffer = ctypes.create_string_buffer(4096)\n"
    "path = ctypes.create_string_buffer(b'/tmp')\n"
)
_CLONES = {
    "a mount": 0x00020000,
    "a control group": 0x02000000,
    "a host name": 0x04000000,
    "an IPC": 0x08000000,
    "a user": 0x10000000,
    "a process": 0x20000000,
    "a network": 0x40000000,
}

CALLS: Mapping[str, Call] = {
    # Namespaces
    **{f"unshare into {what} namespace": Call(272, 97, str(flag)) for what, flag in _CLONES.items()},
    "unshare into a time namespace": Call(272, 97, str(0x80)),
    **{f"clone into {what} namespace": Call(56, 220, f"{flag} | 17, 0, 0, 0, 0") for what, flag in _CLONES.items()},
    "clone3 into a user namespace": Call(
        435, 435, "struct.pack('8Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0), 64", frozenset({"EPERM", "ENOSYS"})
    ),
    "setns": Call(308, 268, "os.open('/proc/self/ns/mnt', os.O_RDONLY), 0"),
    "setns by a process": Call(308, 268, "os.open('/proc/self', os.O_RDONLY), 0x10000000"),
    # Mounts
    "mount": Call(165, 40, "b'none', b'/tmp', b'tmpfs', 0, 0"),
    "mount with MS_BIND": Call(165, 40, f"{_PATHS}, 0, 4096, 0"),
    "mount with MS_REMOUNT": Call(165, 40, "0, b'/', 0, 32, 0"),
    "umount2": Call(166, 39, "b'/proc', 2"),
    "pivot_root": Call(155, 41, _PATHS),
    "chroot": Call(161, 51, "b'/tmp'"),
    "open_tree": Call(428, 428, "-100, b'/tmp', 1"),
    "open_tree_attr": Call(467, 467, "-100, b'/tmp', 1, buffer, 32"),
    "move_mount": Call(429, 429, "-100, b'/tmp', -100, b'/mnt/data', 0"),
    "fsopen": Call(430, 430, "b'tmpfs', 0"),
    "fsconfig": Call(431, 431, "0, 6, 0, 0, 0"),
    "fsmount": Call(432, 432, "0, 0, 0"),
    "fspick": Call(433, 433, "-100, b'/tmp', 0"),
    "mount_setattr": Call(442, 442, "-100, b'/', 0x8000, buffer, 32"),
    "name_to_handle_at": Call(303, 264, "-100, b'/usr', buffer, buffer, 0"),
    "open_by_handle_at": Call(304, 265, "-100, buffer, 0"),
    "quotactl": Call(179, 60, "0x800002 << 8, b'/dev/null', 0, buffer"),
    "quotactl_fd": Call(443, 443, "0, 0x800002 << 8, 0, buffer"),
    "swapon": Call(167, 224, "b'/mnt/data/swap', 0"),
    "swapoff": Call(168, 225, "b'/dev/null'"),
    "acct": Call(163, 89, "b'/mnt/data/accounts'"),
    "fanotify_init": Call(300, 262, "0, 0"),
    # Other processes
    "ptrace attaches to a child": Call(101, 117, "16, child.pid, 0, 0"),
    "ptrace seizes process 1": Call(101, 117, "0x4206, 1, 0, 0"),
    "ptrace of itself": Call(101, 117, "0, 0, 0, 0"),
    "process_vm_readv": Call(310, 270, "1, buffer, 1, buffer, 1, 0"),
    "process_vm_writev": Call(311, 271, "1, buffer, 1, buffer, 1, 0"),
    "pidfd_getfd": Call(438, 438, "os.pidfd_open(child.pid), 0, 0"),
    "kcmp": Call(312, 272, "os.getpid(), 1, 0, 0, 0"),
    "move_pages": Call(279, 239, "1, 0, 0, 0, 0, 0"),
    "migrate_pages": Call(256, 238, "1, 8, buffer, buffer"),
    "process_madvise": Call(440, 440, "os.pidfd_open(child.pid), buffer, 1, 20, 0"),
    # The kernel
    "bpf": Call(321, 280, "0, buffer, 72"),
    "perf_event_open": Call(298, 241, "buffer, 0, -1, -1, 0"),
    "io_uring_setup": Call(425, 425, "4, buffer"),
    "io_uring_enter": Call(426, 426, "0, 1, 0, 0, 0"),
    "io_uring_register": Call(427, 427, "0, 0, 0, 0"),
    "io_setup": Call(206, 0, "1, buffer"),
    "userfaultfd": Call(323, 282, "1"),
    "kexec_load": Call(246, 104, "0, 0, 0, 0"),
    "kexec_file_load": Call(320, 294, "0, 0, 0, 0, 4"),
    "init_module": Call(175, 105, "buffer, 4096, b''"),
    "finit_module": Call(313, 273, "0, b'', 0"),
    "delete_module": Call(176, 106, "b'x', 0"),
    "reboot": Call(169, 142, "0xfee1dead, 672274793, 0, 0"),
    "syslog reads": Call(103, 116, "3, buffer, 4096"),
    "lookup_dcookie": Call(212, 18, "0, buffer, 4096"),
    "ioperm": Call(173, None, "0x80, 1, 1"),
    "iopl": Call(172, None, "3"),
    "vhangup": Call(153, 58, ""),
    # Keys
    "add_key": Call(248, 217, "b'user', b'name', b'value', 5, -3"),
    "request_key": Call(249, 218, "b'user', b'name', 0, -3"),
    "keyctl": Call(250, 219, "0, -3, 1"),
    # The machine's time and names
    "settimeofday": Call(164, 170, "buffer, 0"),
    "clock_settime": Call(227, 112, "0, buffer"),
    "clock_adjtime": Call(305, 266, "0, buffer"),
    "adjtimex": Call(159, 171, "struct.pack('I', 1) + bytes(252)"),
    "sethostname": Call(170, 161, "b'x', 1"),
    "setdomainname": Call(171, 162, "b'x', 1"),
    # Users and capabilities
    "setuid": Call(105, 146, "0", _REFUSED | {"EINVAL"}),  # there may be no such user
    "setgid": Call(106, 144, "0", _REFUSED | {"EINVAL"}),  # there may be no such user
    "setresuid": Call(117, 147, "0, 0, 0", _REFUSED | {"EINVAL"}),  # there may be no such user
    "setresgid": Call(119, 149, "0, 0, 0", _REFUSED | {"EINVAL"}),  # there may be no such user
    "setgroups": Call(116, 159, "1, struct.pack('I', 0)"),
    "capset": Call(126, 91, "struct.pack('Ii', 0x20080522, 0), struct.pack('6I', -1 & 0xffffffff, *[0xffffffff] * 5)"),
    "prctl raises an ambient capability": Call(157, 167, "47, 2, 21, 0, 0"),
    "prctl sets the secure bits": Call(157, 167, "28, 0x2f, 0, 0, 0"),
    "prctl sets the memory map": Call(157, 167, "35, 9, os.open('/bin/sh', os.O_RDONLY), 0, 0"),
    "mknod of a block device": Call(133, None, "b'/mnt/data/disk', 0o60666, 0x800"),
    "mknodat of a block device": Call(259, 33, "-100, b'/mnt/data/disk', 0o60666, 0x800"),
    "mknodat of the memory": Call(259, 33, "-100, b'/mnt/data/memory', 0o20666, 0x101"),
    "setxattr of a file's capabilities": Call(
        188, 5, "b'/mnt/data/program', b'security.capability', struct.pack('5I', 0x2000001, 0x200000, 0, 0, 0), 20, 0"
    ),
}

_OF_PROCESS_1 = {
    "sched_setaffinity": (203, 122, "1, 8, struct.pack('Q', 1)"),
    "sched_setscheduler": (144, 119, "1, 5, bytes(4)"),
    "sched_setparam": (142, 118, "1, bytes(4)"),
    "sched_setattr": (314, 274, "1, struct.pack('2IQiIQQQ', 48, 5, 0, 0, 0, 0, 0, 0), 0"),
    "setpriority": (141, 140, "0, 1, 19"),
    "setpriority of its group": (141, 140, "1, os.getpgid(1) or 1, 19"),
    "setpriority of its user": (141, 140, "2, os.getuid(), 19"),
    "ioprio_set": (251, 30, "1, 1, 3 << 13"),
    "ioprio_set of its user": (251, 30, "3, os.getuid(), 3 << 13"),
    "prlimit64": (302, 261, "1, 7, struct.pack('2Q', 0, 0), 0"),
    "kill": (62, 129, "1, signal.SIGSTOP"),
    "tkill": (200, 130, "1, signal.SIGSTOP"),
    "tgkill": (234, 131, "1, 1, signal.SIGSTOP"),
    "rt_sigqueueinfo": (129, 138, "1, signal.SIGSTOP, struct.pack('3i', signal.SIGSTOP, 0, -1) + bytes(116)"),
    "rt_tgsigqueueinfo": (297, 240, "1, 1, signal.SIGSTOP, struct.pack('3i', signal.SIGSTOP, 0, -1) + bytes(116)"),
    "pidfd_open": (434, 434, "1, 0"),
    "pidfd_send_signal": (424, 424, "os.open('/proc/1', os.O_RDONLY), signal.SIGSTOP, 0, 0"),
}
# The kernel uses the lower half of a process ID, so a filter must not look at the upper half.
_HIGH = 1 << 32
_OF_PROCESS_1_AND_MORE: dict[str, tuple[int | None, int | None, str]] = {
    **_OF_PROCESS_1,
    "kill with a long number": (62, 129, f"{_HIGH} + 1, signal.SIGSTOP"),
    "tkill with a long number": (200, 130, f"{_HIGH} + 1, signal.SIGSTOP"),
    "tgkill with long numbers": (234, 131, f"{_HIGH} + 1, {_HIGH} + 1, signal.SIGSTOP"),
    "sched_setaffinity with a long number": (203, 122, f"{_HIGH} + 1, 8, struct.pack('Q', 1)"),
    "setpriority with long numbers": (141, 140, f"{_HIGH}, {_HIGH} + 1, 19"),
    "prlimit64 with a long number": (302, 261, f"{_HIGH} + 1, 7, struct.pack('2Q', 0, 0), 0"),
}
OF_PROCESS_1: Mapping[str, Call] = {
    name: Call(x86_64, aarch64, arguments) for name, (x86_64, aarch64, arguments) in _OF_PROCESS_1_AND_MORE.items()
}

# Each runs in a child and leaves process 1 as it is.
SIGNALS_TO_PROCESS_1: Mapping[str, str] = {
    "every signal": "for number in range(1, 65): attempt(os.kill, 1, number)",
    "a signal to all": "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nattempt(os.kill, -1, signal.SIGTERM)",
    "the signals of a descriptor": (
        "import fcntl\n"
        "one, other = socket.socketpair()\n"
        "for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGINT):\n"
        "    attempt(fcntl.fcntl, one, fcntl.F_SETOWN, 1)\n"
        "    attempt(fcntl.fcntl, one, 10, number)\n"  # F_SETSIG
        "    attempt(fcntl.fcntl, one, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)\n"
        "    other.send(b'x')\n"
    ),
    "urgent data": (
        "import fcntl\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "client = socket.create_connection(server.getsockname())\n"
        "connection, _ = server.accept()\n"
        "attempt(fcntl.ioctl, connection, 0x8901, struct.pack('i', 1))\n"  # FIOSETOWN
        "for _ in range(100): client.send(b'x', socket.MSG_OOB)\n"
    ),
    "the end of a child with another signal": (
        "for number in (signal.SIGSTOP, signal.SIGKILL, signal.SIGINT):\n"
        "    if libc.syscall((56, 220)[column], int(number) | 0x8000, 0, 0, 0, 0) == 0: os._exit(0)\n"
        "    if os.fork() == 0:\n"
        "        if libc.syscall((56, 220)[column], int(number), 0, 0, 0, 0) == 0:\n"
        "            time.sleep(0.2)\n"
        "        os._exit(0)\n"
        "time.sleep(0.5)\n"
    ),
    "the ends of many children": (
        "for _ in range(500):\n"
        "    if os.fork() == 0:\n"
        "        try: os.fork()\n"
        "        finally: os._exit(0)\n"
        "    os.wait()\n"
    ),
    "a timer": "attempt(signal.setitimer, signal.ITIMER_REAL, 0.01)\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)",
}


class SystemCallAttacks(AttackBase):
    """Namespaces, mounts, other processes, the kernel and its time: refused, call by call."""

    @pytest.mark.parametrize("name", CALLS)
    def test_a_system_call_is_refused(self, shared: Session, name: str) -> None:
        call = CALLS[name]
        # The object of a call can be missing, for example in a kernel without namespaces or pidfds.
        code = (
            f"{_CHILD}open('/mnt/data/program', 'w').close()\n"
            f"try: answer = {call.code}\n"
            "except FileNotFoundError: answer = 'ENOSYS'\n"
            "except OSError as error: answer = errno.errorcode[error.errno]\n"
            "child.kill()\nchild.wait()\ntell(answer)"
        )
        assert ask(shared, code) in call.refused

    @pytest.mark.parametrize("name", OF_PROCESS_1)
    def test_process_1_cannot_be_starved_stopped_or_limited_by(self, shared: Session, name: str) -> None:
        call = OF_PROCESS_1[name]
        assert ask(shared, f"tell({call.code})") in call.refused

    def test_a_process_schedules_limits_and_signals_itself_and_its_children(self, shared: Session) -> None:
        code = (
            "import resource\n"
            "read, write = os.pipe()\n"
            "if os.fork() == 0:\n"
            "    ended = subprocess.Popen(['sleep', '60'])\n"
            "    done = [\n"
            "        attempt(os.sched_setaffinity, 0, os.sched_getaffinity(0)),\n"
            "        attempt(os.sched_getaffinity, 1) in ('done', 'EPERM'),\n"
            "        attempt(os.nice, 1),\n"
            "        attempt(os.setpriority, os.PRIO_PROCESS, 0, 19),\n"
            "        attempt(os.sched_setscheduler, 0, os.SCHED_BATCH, os.sched_param(0)),\n"
            "        attempt(resource.setrlimit, resource.RLIMIT_CORE, (0, 0)),\n"
            "        attempt(resource.prlimit, ended.pid, resource.RLIMIT_NOFILE),\n"
            "        attempt(ended.terminate), ended.wait() == -signal.SIGTERM,\n"
            "        attempt(signal.raise_signal, signal.SIGWINCH),\n"
            "    ]\n"
            "    os.write(write, json.dumps(done).encode())\n"
            "    os._exit(0)\n"
            "os.wait()\n"
            "tell(json.loads(os.read(read, 4096)))"
        )
        assert set(ask(shared, code)) == {"done", True}

    @pytest.mark.parametrize("name", SIGNALS_TO_PROCESS_1)
    def test_process_1_outlives(self, session: Session, neighbour: Session, name: str) -> None:
        session.upload(b"kept", "kept.txt")
        code = "\n".join(f"    {line}" for line in SIGNALS_TO_PROCESS_1[name].splitlines())
        attack(session, f"pid = os.fork()\nif pid == 0:\n{code}\n    os._exit(0)\nos.waitpid(pid, 0)", timeout=20)
        works(neighbour)
        answers(session)
        assert session.download("kept.txt") == b"kept", "it is a new session"

    @pytest.mark.parametrize("option", [26, 50, 51, 52], ids=["FILTER", "BPF", "REUSEPORT_CBPF", "REUSEPORT_EBPF"])
    def test_no_program_of_the_kernel_is_attached_to_a_socket(self, shared: Session, option: int) -> None:
        """The whole machine has one pool of memory for them, so programs outside would find it full."""
        code = (
            "program = ctypes.create_string_buffer(struct.pack('=HBBI', 6, 0, 0, 1))\n"
            "filter = struct.pack('@HxxxxxxP', 1, ctypes.addressof(program))\n"
            "udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
            f"tell(attempt(udp.setsockopt, socket.SOL_SOCKET, {option}, filter))"
        )
        assert ask(shared, code) != "done"

    def test_the_other_architecture_of_the_processor_is_closed(self, session: Session) -> None:
        """Calls of another architecture have other numbers, which a filter could mistake for harmless calls."""
        code = (
            "import mmap\n"
            "page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
            "page.write(bytes.fromhex('b814000000cd80c3'))\n"  # mov eax, 20 (getpid); int 0x80; ret
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    address = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
            "    os._exit(ctypes.CFUNCTYPE(ctypes.c_int)(address)() == os.getpid())\n"
            "tell(os.waitpid(pid, 0)[1] if platform.machine() == 'x86_64' else 9)"
        )
        assert ask(session, code) != 256, "the call was made"
        x32 = "tell(call(0x40000000 + 39) if platform.machine() == 'x86_64' else 'ENOSYS')"
        assert ask(session, x32) in _REFUSED
        answers(session)
