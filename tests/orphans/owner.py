"""A process that holds five sessions, for the tests to end in every way: `owner.py URL HOW`."""

from __future__ import annotations

import os
import sys
import threading
import time

import greenroom

IN_PYTHON = "while True:\n    pass"
IN_C = "import ctypes\nctypes.CDLL(None).sleep(1000)"
DAEMONS = """
import os, signal, time
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        if os.fork():
            os._exit(0)
        while True:
            time.sleep(1)
"""
HOSTILE = """
import os, signal, threading, time
try:
    os.kill(os.getppid(), signal.SIGSTOP)
    os.kill(1, signal.SIGSTOP)
    os.kill(1, signal.SIGKILL)
except OSError:
    pass
for descriptor in (0, 1):
    try:  # the other end of the host's pipes, so that they never end
        os.open(f"/proc/{os.getppid()}/fd/{descriptor}", os.O_RDWR)
    except OSError:
        pass
os.closerange(3, 64)  # no orders are read any more, and nothing is answered
def flood():
    while True:
        os.write(1, b"x" * 65536)
threading.Thread(target=flood).start()
while True:
    try:
        time.sleep(1)
    except BaseException:
        pass
"""


def main(url: str, how: str) -> None:
    pool = greenroom.connect(url, ready_session_instances=1, preload=())
    sessions = [pool.session(f"owned-{number}") for number in range(5)]
    for session in sessions:
        session.execute("x = 1").raise_for_error()
    for session, code in zip(sessions[1:], (IN_PYTHON, IN_C, DAEMONS, HOSTILE), strict=True):
        session.submit(code)
    time.sleep(0.5)
    print("ready", flush=True)
    match how:
        case "wait":
            threading.Event().wait()
        case "return":
            return
        case "exit":
            os._exit(3)
        case "close":
            pool.close()
            print("closed", flush=True)
            threading.Event().wait()
        case other:
            raise ValueError(other)


if __name__ == "__main__":
    main(*sys.argv[1:])
