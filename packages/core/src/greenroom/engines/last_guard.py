"""The program of the process that `watchdog` starts. Until the owner ends, it uses the standard library only.

Its argument is JSON: the owner's process, Python's module path, a function as `module:name`, and its arguments.
The function kills the sandboxes that the owner left behind, and returns how many it found.
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
"""Its output once it is watching."""

_TRIES, _PAUSE = 100, 1.0  # until nothing is left, on a machine too busy to end all of them in time
_PATIENCE = 10.0  # seconds after the pipe closes in which the owner must have ended


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
            return  # the owner has dropped this process, and is alive
        time.sleep(0.01)
    sys.path[:] = path
    module, _, name = function.partition(":")
    end_all = getattr(importlib.import_module(module), name)
    for _ in range(_TRIES):
        with contextlib.suppress(Exception):  # such as a daemon that does not respond: there is nowhere to report it
            if end_all(*arguments) == 0:
                return
        time.sleep(_PAUSE)


def _descriptor(owner: int) -> int | None:
    try:
        return os.pidfd_open(owner)
    except (AttributeError, OSError):  # not on Linux, or the owner has ended
        return None


def _is_gone(owner: int, process: int | None) -> bool:
    if process is not None:
        return bool(select.select([process], [], [], 0)[0])  # even if nothing has waited for it yet
    try:
        os.kill(owner, 0)
    except ProcessLookupError:
        return True
    return False


if __name__ == "__main__":
    main()
