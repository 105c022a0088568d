"""Fresh randomness for a forked worker: values that modules drew during their import are drawn again.

Process IDs do not reveal the fork to modules that compare them: they are the same in each sandbox.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any


def renew() -> None:
    """Replace every random state that modules of the standard library and numpy keep."""
    for name, renew_one in _KEEPERS.items():
        if (module := sys.modules.get(name)) is not None:
            with contextlib.suppress(AttributeError):  # another version of it, without a state
                renew_one(module)


def _renew_ssl(ssl: Any) -> None:
    ssl.RAND_add(os.urandom(48), 48.0)


def _renew_tempfile(tempfile: Any) -> None:
    tempfile._name_sequence = None  # noqa: SLF001


def _renew_uuid(uuid: Any) -> None:
    uuid._node = uuid._last_timestamp = None  # noqa: SLF001


def _renew_multiprocessing(process: Any) -> None:
    process.current_process().authkey = os.urandom(32)


def _renew_seed(module: Any) -> None:
    module.seed()


_KEEPERS: dict[str, Callable[[Any], None]] = {
    "multiprocessing.process": _renew_multiprocessing,
    "numpy.random": _renew_seed,
    "random": _renew_seed,
    "_ssl": _renew_ssl,
    "tempfile": _renew_tempfile,
    "uuid": _renew_uuid,
}
