"""Find out whether the kernel has killed processes of the sandbox for lack of memory."""

from __future__ import annotations

import contextlib


class OutOfMemory:
    """Compares the kernel's count with the previous one, if the sandbox can see it."""

    def __init__(self) -> None:
        self._kills = _kills()

    def occurred(self) -> bool:
        """Return whether a process was killed since the last call."""
        before, self._kills = self._kills, _kills()
        return self._kills > before


def _kills() -> int:
    for path in ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as file:
            for line in file:
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
    return 0
