# ruff: noqa: E501  tables of attacks, one line each
"""Attacks that look for files, processes, devices and names of the host from within a sandbox."""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import sys
from pathlib import Path

import pytest

from greenroom.sessions import Session
from greenroom.testing.attacks.base import AttackBase, ask

_OF_PROCESS_1 = (
    "mem",
    "environ",
    "root",
    "cwd",
    "exe",
    "maps",
    "smaps",
    "map_files",
    "auxv",
    "io",
    "stack",
    "syscall",
    "personality",
    "pagemap",
    "fd/0",
    "fd/1",
    "fd/3",
    "fd/4",
    "fd/5",
    "task/1/mem",
    "task/1/environ",
)
_WRITABLE_BY_ROOT = (
    "/proc/sysrq-trigger",
    "/proc/kcore",
    "/proc/kmsg",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/pty/max",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/kernel/threads-max",
    "/proc/sys/kernel/yama/ptrace_scope",
    "/proc/sys/fs/aio-max-nr",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sys/fs/file-max",
    "/proc/sys/net/core/somaxconn",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/user/max_user_namespaces",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/vm/overcommit_memory",
    "/proc/bus/pci/devices",
    "/proc/irq/default_smp_affinity",
    "/proc/mtrr",
    "/proc/acpi/wakeup",
    "/proc/scsi/scsi",
    "/proc/timer_list",
    "/proc/1/oom_score_adj",
    "/proc/1/oom_adj",
    "/proc/1/timerslack_ns",
    "/proc/1/coredump_filter",
    "/proc/1/clear_refs",
    "/proc/1/autogroup",
    "/proc/1/comm",
    "/proc/1/sched",
    "/proc/1/uid_map",
    "/proc/1/gid_map",
    "/proc/1/setgroups",
    "/proc/1/attr/exec",
    "/proc/1/loginuid",
    "/proc/self/uid_map",
    "/proc/self/gid_map",
    "/sys/kernel/uevent_helper",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/kernel/security/lsm",
    "/sys/kernel/debug/sched",
    "/sys/power/state",
    "/sys/fs/cgroup/release_agent",
    "/sys/fs/cgroup/cgroup.procs",
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/release_agent",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    "/sys/fs/cgroup/memory/memory.oom_control",
    "/sys/fs/cgroup/pids/pids.max",
    "/sys/fs/cgroup/devices/devices.allow",
)
_DEVICES = (
    "mem",
    "kmem",
    "port",
    "kmsg",
    "kvm",
    "fuse",
    "loop-control",
    "loop0",
    "net/tun",
    "vhost-net",
    "vhost-vsock",
    "vsock",
    "mapper/control",
    "sda",
    "vda",
    "nvme0n1",
    "dm-0",
    "tty0",
    "tty1",
    "ttyS0",
    "console",
    "hvc0",
    "vcs",
    "vcsa",
    "input/event0",
    "uinput",
    "rtc",
    "hpet",
    "snapshot",
    "userfaultfd",
    "dri/card0",
    "cpu_dma_latency",
    "watchdog",
    "autofs",
    "btrfs-control",
    "nvram",
    "raw1394",
    "sg0",
    "uhid",
    "ppp",
)
_ORDINARY_DEVICES = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts/ptmx", "console"}
_SECRETS = (
    "/etc/shadow",
    "/etc/gshadow",
    "/etc/sudoers",
    "/etc/ssh/ssh_host_ed25519_key",
    "/etc/ssl/private",
    "/etc/docker/daemon.json",
    "/etc/kubernetes",
    "/root/.ssh",
    "/root/.bash_history",
    "/root/.azure",
    "/root/.aws",
    "/root/.docker/config.json",
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/secrets",
    "/var/run/secrets",
    "/var/lib/docker",
    "/var/log/syslog",
    "/var/log/dockerd.log",
    "/boot/grub",
    "/proc/1/root/etc/shadow",
    "/proc/1/cwd/../../etc/shadow",
    "/proc/self/root/../etc/shadow",
)


class HostAttacks(AttackBase):
    """Files, processes, devices and names of the host do not exist, or cannot be opened."""

    # Processes

    @pytest.mark.parametrize("name", _OF_PROCESS_1)
    def test_process_1_hides(self, shared: Session, name: str) -> None:
        code = (
            f"path = '/proc/1/{name}'\ndone = []\n"
            "def read(): return open(path, 'rb').read(1)\n"
            "def look(): return os.listdir(path)\n"
            "def write(): return os.open(path, os.O_WRONLY | os.O_NONBLOCK)\n"
            "for function in read, look, write, lambda: os.readlink(path):\n"
            "    try: done.append(bool(function()))\n"
            "    except OSError: pass\n"
            "tell(any(done))"
        )
        assert ask(shared, code) is False

    def test_no_process_of_the_host_is_seen(self, shared: Session) -> None:
        seen = ask(shared, "tell([open(f'/proc/{p}/cmdline').read() for p in os.listdir('/proc') if p.isdigit()])")
        assert len(seen) <= 8
        assert "pytest" not in " ".join(seen)
        assert ask(shared, f"tell(attempt(os.kill, {os.getpid()}, 0))") == "ESRCH"

    def test_only_descriptors_of_the_sandbox_are_open(self, session: Session) -> None:
        code = (
            "found = {}\n"
            "for process in filter(str.isdigit, os.listdir('/proc')):\n"
            "    try: numbers = os.listdir(f'/proc/{process}/fd')\n"
            "    except OSError: continue\n"
            "    for number in numbers:\n"
            "        try: found[f'{process} {number}'] = os.readlink(f'/proc/{process}/fd/{number}')\n"
            "        except OSError: pass\n"
            "tell(found)"
        )
        found: dict[str, str] = ask(session, code)
        belongs = ("pipe:", "socket:", "anon_inode:", "/dev/null", "/dev/urandom", "host:")
        assert found
        # Some versions of libffi keep their own library open.
        assert [name for name in found.values() if not name.startswith(belongs) and "/libffi.so" not in name] == []

    def test_programs_of_the_code_inherit_no_descriptor(self, shared: Session) -> None:
        code = (
            "script = 'import os; print(len([n for n in range(3, 4096) if os.path.exists(f\"/proc/self/fd/{n}\")]))'\n"
            "done = subprocess.run([sys.executable, '-I', '-c', script], close_fds=False, stdout=-1, text=True)\n"
            "tell(int(done.stdout))"
        )
        assert ask(shared, code) <= 1

    # /proc and /sys

    @pytest.mark.parametrize("path", _WRITABLE_BY_ROOT)
    def test_a_file_of_the_kernel_cannot_be_written(self, shared: Session, path: str) -> None:
        code = (
            f"path = {path!r}\n"
            "def write():\n"
            "    descriptor = os.open(path, os.O_WRONLY)\n"
            "    try: os.write(descriptor, b'1')\n"
            "    finally: os.close(descriptor)\n"
            "hidden = os.path.exists(path) and os.stat(path).st_rdev == os.stat('/dev/null').st_rdev\n"
            "tell('ENOENT' if hidden else attempt(write))"
        )
        assert ask(shared, code) in {
            "ENOENT",
            "EACCES",
            "EPERM",
            "EROFS",
            "EISDIR",
            "ENOTDIR",
            "EINVAL",
            "EBADF",
            "EIO",
        }

    def test_nothing_in_proc_and_sys_is_writable_but_the_codes_own(self, shared: Session) -> None:
        code = (
            "found = []\n"
            "null = os.stat('/dev/null').st_rdev\n"  # some engines mount it over what is hidden
            "for top in ('/proc/sys', '/sys', '/proc'):\n"
            "    for directory, names, files in os.walk(top):\n"
            "        if directory == '/proc':\n"
            "            names[:] = [n for n in names if not n.isdigit() and 'self' not in n and n != 'sys']\n"
            "        found += [p for p in (f'{directory}/{f}' for f in files)\n"
            "                  if os.access(p, os.W_OK) and not os.path.islink(p) and os.stat(p).st_rdev != null]\n"
            "tell(found[:20])"
        )
        for_anyone = {"/proc/sys/kernel/ns_last_pid", *(f"/proc/pressure/{name}" for name in ("cpu", "io", "memory"))}
        assert set(ask(shared, code)) <= for_anyone, "these need a capability, or only report the load"

    def test_the_kernels_addresses_and_log_are_hidden(self, shared: Session) -> None:
        code = (
            "def lines(path):\n"
            "    try: return open(path).read(20000).splitlines()\n"
            "    except OSError: return []\n"
            "tell([sum(int(line.split()[0], 16) for line in lines('/proc/kallsyms')[:-1]),\n"
            "      len(lines('/proc/kcore')), len(lines('/dev/kmsg')), len(lines('/proc/keys'))])"
        )
        assert ask(shared, code) == [0, 0, 0, 0]

    # Devices

    def test_there_are_no_devices_but_the_ordinary(self, session: Session) -> None:
        code = (
            "import stat\nfound = []\n"
            "for directory, _, files in os.walk('/dev'):\n"
            "    for name in files:\n"
            "        path = f'{directory}/{name}'\n"
            "        try: mode = os.lstat(path).st_mode\n"
            "        except OSError: continue\n"
            "        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode): found.append(path.removeprefix('/dev/'))\n"
            "tell(found)"
        )
        assert set(ask(session, code)) <= _ORDINARY_DEVICES

    @pytest.mark.parametrize("name", _DEVICES)
    def test_a_device_cannot_be_opened(self, shared: Session, name: str) -> None:
        code = f"tell([attempt(os.open, '/dev/{name}', mode | os.O_NONBLOCK) for mode in (os.O_RDONLY, os.O_WRONLY)])"
        assert set(ask(shared, code)) <= {"ENOENT", "EACCES", "EPERM", "ENXIO", "ENODEV", "ENOTDIR"}

    def test_no_terminal_of_the_host_is_reached(self, session: Session) -> None:
        code = (
            "import fcntl, termios\n"
            "def push():\n"
            "    terminal = os.open('/dev/tty', os.O_RDWR)\n"
            "    fcntl.ioctl(terminal, termios.TIOCSTI, b'x')\n"
            "inherited = [attempt(fcntl.ioctl, number, termios.TIOCSTI, b'x') for number in range(3)]\n"
            "others = [name for name in os.listdir('/dev/pts') if name != 'ptmx'] if os.path.exists('/dev/pts') else []\n"
            "tell([attempt(push), *inherited, *others])"
        )
        assert set(ask(session, code)) <= {"ENXIO", "ENOENT", "EACCES", "ENOTTY", "EIO", "EPERM"}

    # Privileges

    def test_programs_that_change_the_user_do_not(self, shared: Session) -> None:
        code = (
            "found = []\n"
            "for directory in ('/bin', '/sbin', '/usr/bin', '/usr/sbin', '/usr/lib', '/usr/libexec', '/usr/local/bin'):\n"
            "    for top, _, files in os.walk(directory):\n"
            "        for path in (f'{top}/{name}' for name in files):\n"
            "            try: status = os.stat(path)\n"
            "            except OSError: continue\n"
            "            if status.st_mode & 0o6000 and status.st_mode & 0o111: found.append(os.path.realpath(path))\n"
            "seen = []\n"
            "for path in sorted(set(found))[:20]:\n"  # the loader reveals nothing for programs that gain privileges
            "    try:\n"
            "        process = subprocess.Popen(\n"
            "            [path, '--help'], env={'LD_SHOW_AUXV': '1'}, stdin=-3, stdout=-1, stderr=-3)\n"
            "    except OSError: continue\n"
            "    try: said = process.communicate(timeout=5)[0]\n"
            "    except subprocess.TimeoutExpired:\n"
            "        process.kill()\n"
            "        said = process.communicate()[0]\n"
            "    lines = said.decode(errors='replace').splitlines()\n"
            "    users = [line.split()[1] for line in lines if line.startswith(('AT_EUID', 'AT_EGID'))]\n"
            "    if users: seen.append(users == [str(os.getuid()), str(os.getgid())])\n"
            "tell(seen)"
        )
        assert set(ask(shared, code)) <= {True}

    def test_every_process_is_without_privileges_for_good(self, shared: Session) -> None:
        code = (
            "found = {}\n"
            "for process in filter(str.isdigit, os.listdir('/proc')):\n"
            "    for line in open(f'/proc/{process}/status'):\n"
            "        name, _, value = line.partition(':')\n"
            "        if name.startswith('Cap') or name in {'NoNewPrivs', 'Seccomp'}:\n"
            "            found.setdefault(name, []).append(int(value, 16))\n"
            "tell(found)"
        )
        found: dict[str, list[int]] = ask(shared, code)
        assert found
        for name, values in found.items():
            assert set(values) == {{"NoNewPrivs": 1, "Seccomp": 2}.get(name, 0)}, name

    # Files and names

    @pytest.mark.parametrize("path", _SECRETS)
    def test_a_sensitive_path_of_the_host_is_closed(self, shared: Session, path: str) -> None:
        code = (
            f"path = {path!r}\n"
            "def read(): return open(path, 'rb').read(1)\n"
            "def connect(): socket.socket(socket.AF_UNIX).connect(path)\n"
            "tell([attempt(read), attempt(os.listdir, path), attempt(connect)])"
        )
        assert "done" not in ask(shared, code)

    def test_files_of_the_host_are_not_there(self, shared: Session, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("secret")
        ways = ("", "/proc/self/root", "/proc/1/root", "/proc/self/cwd/../..", "/mnt/data/../..")
        code = f"tell([attempt(open, way + {str(tmp_path / 'secret')!r}) for way in {ways}])"
        assert set(ask(shared, code)) <= {"ENOENT", "EACCES"}

    @pytest.mark.parametrize("directory", ["/home", "/root", "/srv", "/media", "/boot", "/run", "/var/lib", "/var/log"])
    def test_a_directory_has_nothing_of_the_host(self, shared: Session, directory: str) -> None:
        """Except the interpreter, if it is there, and without anything newer than the image."""
        mark = Path(directory, f".greenroom-{secrets.token_hex(6)}")
        try:
            mark.touch()
        except OSError:
            pytest.skip(f"{directory} cannot be written to")
        try:
            assert ask(shared, f"tell(attempt(os.stat, {str(mark)!r}))") in {"ENOENT", "EACCES"}
        finally:
            mark.unlink()

    def test_nothing_next_to_the_interpreter_is_visible(self, shared: Session) -> None:
        home = Path.home()
        code = (
            f"home = {str(home)!r}\nseen = []\n"
            "for directory, names, files in os.walk(home):\n"
            f"    if directory.startswith(({sys.prefix!r}, {sys.base_prefix!r}, sys.prefix, sys.base_prefix)):\n"
            "        names.clear()\n"
            "        continue\n"
            "    seen += [f'{directory}/{name}' for name in files]\n"
            "tell(seen[:20])"
        )
        if str(home) != "/":
            assert ask(shared, code) == []

    def test_the_hosts_name_and_users_are_not_visible(self, shared: Session) -> None:
        code = (
            "texts = [str(os.uname()), str(dict(os.environ)), socket.gethostname()]\n"
            "for path in ('/etc/passwd', '/etc/group', '/etc/hosts', '/etc/hostname', '/etc/mailname', '/etc/machine-id',\n"
            "             '/etc/resolv.conf', '/proc/sys/kernel/hostname', '/proc/sys/kernel/domainname'):\n"
            "    try: lines = open(path).read().splitlines()\n"
            "    except OSError: continue\n"
            "    texts.append('\\n'.join(line for line in lines if not line.startswith('sandbox:')))\n"
            "tell(texts)"
        )
        told: list[str] = ask(shared, code)
        assert told[2] == "greenroom"
        names = {user.pw_name for user in pwd.getpwall() if 1000 <= user.pw_uid < 60000}
        machine = Path("/etc/machine-id")
        names |= {machine.read_text().strip()} if machine.exists() else set()
        if len(socket.gethostname()) > 4:  # `vm` is part of many words
            names.add(socket.gethostname())
        names -= {"", "greenroom"}
        # The directory of Python can be below a user's own, and is in PATH.
        assert [name for name in names for text in told if name in text.replace(sys.prefix, "")] == []
