"""The number of processors that code sees: its session's, not the machine's."""

from __future__ import annotations

import os
import sys


def count_as_given() -> None:
    """Make `os.cpu_count()` follow the environment, as Python does since 3.13, though not with `-I`."""
    given = os.environ.get("PYTHON_CPU_COUNT", "")
    if given.isdecimal() and int(given):

        def cpu_count() -> int:
            return int(given)

        cpu_count.__module__, cpu_count.__qualname__ = "os", "cpu_count"  # so that it can be pickled
        os.cpu_count = cpu_count
        if sys.version_info >= (3, 13):
            os.process_cpu_count = os.cpu_count
