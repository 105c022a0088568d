"""Find engines by the scheme of a pool's URL: Greenroom's own, and those that other packages provide."""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from greenroom.config.values import did_you_mean
from greenroom.engines.base import EnginePlugin
from greenroom.errors import EngineUnavailable, InvalidRequest

ENTRY_POINTS = "greenroom.engines"
"""The group in which a package names its engines: `podman = "my_package:PLUGIN"`, an `EnginePlugin`."""

BUILT_IN = {"bubblewrap": "greenroom.engines.bubblewrap", "docker": "greenroom.engines.docker"}
"""The modules of Greenroom's own engines by scheme, the preferred one first."""


def schemes() -> list[str]:
    """Return the schemes of all engines, including those that do not work here."""
    return [*BUILT_IN, *sorted(_offered().keys() - BUILT_IN.keys())]


def plugin(scheme: str) -> EnginePlugin[Any]:
    """Return the engine of a scheme.

    Raises:
        InvalidRequest: there is no such engine; the message suggests the nearest name.
        EngineUnavailable: its plug-in cannot be imported; the message includes the plug-in's own error.
    """
    if (module := BUILT_IN.get(scheme)) is not None:
        return importlib.import_module(module).PLUGIN
    entry = _offered().get(scheme)
    if entry is None:
        known = schemes()
        names = ", ".join(f"{each}:" for each in known)
        raise InvalidRequest(
            f"The scheme of a pool must be one of {names} or https: (for a pool in Azure), not {scheme!r:.200}."
            f"{did_you_mean(scheme, known)}"
        )
    try:
        found = entry.load()
    except Exception as error:
        raise EngineUnavailable(
            f"The engine plug-in {scheme!r} ({entry.value}) cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(found, EnginePlugin):
        raise EngineUnavailable(
            f"The engine plug-in {scheme!r} ({entry.value}) must be an EnginePlugin, not {found!r:.200}."
        )
    return found  # pyright: ignore[reportUnknownVariableType]  its options are the plug-in's own


def _offered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
