"""The program of the process that `watchdog` starts. Before the owner's end, it uses the standard library only.

Its argument is JSON: the owner's process, the path of Python's modules, a function as `module:name`, its arguments.
The function ends what is left of the owner, and returns how many sandboxes it found.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import sys
import time

WATCHING = "watching\n"
"""What it prints once it watches."""

_TRIES, _PAUSE = 100, 1.0  # until nothing is left, on a machine that is too busy to end all in time
_PATIENCE = 10.0  # seconds from the end of the pipe, in which the owner ends or does not


def main() -> None:
    owner, path, function, arguments = json.loads(sys.argv[1])
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):  # a service manager sends them to every process
        signal.signal(number, signal.SIG_IGN)
    poll = select.poll()
    poll.register(0, select.POLLIN)
    process = _descriptor(owner)
    if process is not None:  # the pipe alone can be open in a copy of the owner
        poll.register(process, select.POLLIN)
    print(WATCHING, end="", flush=True)
    poll.poll()
    deadline = time.monotonic() + _PATIENCE
    while not _is_gone(owner, process):
        if time.monotonic() > deadline:
            return  # it has forgotten this process, and lives
        time.sleep(0.01)
    sys.path[:] = path
    module, _, name = function.partition(":")
    end_all = getattr(importlib.import_module(module), name)
    for _ in range(_TRIES):
        with contextlib.suppress(Exception):  # such as a daemon that does not answer: there is nobody to tell
            if end_all(*arguments) == 0:
                return
        time.sleep(_PAUSE)


def _descriptor(owner: int) -> int | None:
    try:
        return os.pidfd_open(owner)
    except (AttributeError, OSError):  # Linux only, and not of an owner that has ended
        return None


def _is_gone(owner: int, process: int | None) -> bool:
    if process is not None:
        return bool(select.select([process], [], [], 0)[0])  # also if nobody has waited for it yet
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return True
    return False


if __name__ == "__main__":
    main()
