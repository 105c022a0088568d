"""A process whose sessions keep their first process from its end, for the tests to kill: `attacker.py URL ATTACK…`."""

from __future__ import annotations

import sys
import threading
from typing import Any

import greenroom

TOOLS = """
import ctypes, os, platform, signal, socket, struct, time
libc = ctypes.CDLL(None, use_errno=True)
def attempt(function, *arguments):
    try: return function(*arguments)
    except Exception: return None
def children(number, function):
    "Have so many children do it again and again, each in a session of its own, from the moment when all are there."
    read, write = os.pipe()
    for _ in range(number):
        pid = attempt(os.fork)
        if pid == 0:
            os.close(write)
            attempt(os.setsid)
            for each in range(1, 65): attempt(signal.signal, each, signal.SIG_IGN)
            os.read(read, 1)
            while True: attempt(function)
    os.write(1, b"begun\\n")
    os.close(write)
"""
ATTACKS = {
    "starve": (
        "attempt(os.sched_setaffinity, 1, {0})\n"
        "attempt(os.setpriority, os.PRIO_PROCESS, 1, 19)\n"
        "attempt(os.sched_setscheduler, 1, os.SCHED_IDLE, os.sched_param(0))\n"
        "attempt(os.sched_setaffinity, 0, {0})\n"
        "children(240, lambda: sum(range(10**6)))\n"
    ),
    "stop": (
        "import fcntl\n"
        "one, other = socket.socketpair()\n"
        "attempt(fcntl.fcntl, one, fcntl.F_SETOWN, 1)\n"
        "attempt(fcntl.fcntl, one, 10, signal.SIGSTOP)\n"  # F_SETSIG
        "attempt(fcntl.fcntl, one, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)\n"
        "def stop():\n"
        "    for number in (signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGINT):\n"
        "        attempt(os.kill, 1, number)\n"
        "        attempt(signal.pidfd_send_signal, attempt(os.pidfd_open, 1), number)\n"
        "    attempt(other.send, b'x')\n"
        "    attempt(one.recv, 1)\n"
        "    libc.syscall({'x86_64': 234, 'aarch64': 131}[platform.machine()], 1, 1, signal.SIGSTOP)\n"
        "children(32, stop)\n"
    ),
    "end children": "children(64, lambda: os.fork() or (os.fork(), os._exit(0)))\n",
    "write": "children(16, lambda: os.write(1, bytes(1 << 16)))\n",
    "fill the memory": "children(32, lambda: bytearray(b'x' * (64 << 20)))\n",
    "hold both ends": (
        "for number in range(16):\n"
        "    for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR): attempt(os.open, f'/proc/1/fd/{number}', mode)\n"
        "children(8, lambda: time.sleep(1))\n"
        "os.closerange(3, 5)\n"
    ),
    "limit": (
        "import resource\n"
        "for name in ('NOFILE', 'NPROC', 'DATA', 'AS', 'CPU', 'STACK', 'RTPRIO', 'RTTIME', 'NICE'):\n"
        "    attempt(resource.prlimit, 1, getattr(resource, f'RLIMIT_{name}'), (0, 0))\n"
        "children(240, lambda: os.sched_yield())\n"
    ),
}


def attack(session: greenroom.Session, name: str) -> None:
    """Return when the code has all its processes; it continues."""
    begun = threading.Event()

    def follow() -> None:
        for event in session.stream(f"{TOOLS}{ATTACKS[name]}while True: time.sleep(1)", timeout=600):
            if isinstance(event, greenroom.StreamText) and "begun" in event.text:
                begun.set()

    threading.Thread(target=follow, daemon=True).start()
    begun.wait(60)


def main(url: str, *names: str) -> None:
    options: dict[str, Any] = {"pids": 256, "memory": "512Mi", "preload": (), "ready_session_instances": 0}
    pool = greenroom.connect(url, **options)
    sessions = {name: pool.session(f"attacking-{name.replace(' ', '-')}") for name in names}
    for session in sessions.values():
        session.execute("1").raise_for_error()
    print("ready", flush=True)
    sys.stdin.readline()  # until all owners are, as attacks leave little for a start
    begun = [threading.Thread(target=attack, args=(session, name)) for name, session in sessions.items()]
    for thread in begun:
        thread.start()
    for thread in begun:
        thread.join()
    print("attacking", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
