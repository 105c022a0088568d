"""Which environment variables modules read during import: a template's forks cannot set these in time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

_READ_IN_C = (
    "ARROW_",
    "BLIS_",
    "GOMP_",
    "GOTO_",
    "KMP_",
    "LC_",
    "MKL_",
    "NPY_",
    "OMP_",
    "OPENBLAS_",
    "POLARS_",
    "RAYON_",
    "VECLIB_",
)
"""Prefixes of the names that libraries read with `getenv`, which cannot be observed here."""

_LANGUAGES = ("LANG", "LANGUAGE")
"""Names that are also read in C; they are not prefixes, as many other names begin with them."""


class Lookups:
    """Records lookups in `os.environ`, until `end`."""

    def __init__(self) -> None:
        self._names: set[object] = set()
        self._all = False  # all names were listed
        self._environ: Any = os.environ
        self._encode, self._decode = self._environ.encodekey, self._environ.decodekey
        self._environ.encodekey, self._environ.decodekey = self._look_up, self._go_through

    def end(self) -> None:
        """Stop recording. Idempotent."""
        self._environ.encodekey, self._environ.decodekey = self._encode, self._decode

    def among(self, names: Iterable[str]) -> list[str]:
        """Return those of the names that were read, or may have been."""
        read = {*self._names, *_LANGUAGES}
        return [name for name in names if self._all or name in read or name.startswith(_READ_IN_C)]

    def _look_up(self, name: object) -> bytes:
        self._names.add(name)
        return self._encode(name)

    def _go_through(self, name: bytes) -> str:
        self._all = True
        return self._decode(name)
