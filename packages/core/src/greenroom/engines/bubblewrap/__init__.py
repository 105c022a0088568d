"""Sandboxes by bubblewrap: no daemon and no image."""

from __future__ import annotations

from greenroom.engines.base import Engine, EnginePlugin, IsolationOptions


class BubblewrapOptions(IsolationOptions):
    """The options of `bubblewrap:`."""

    python: str | None = None
    """The interpreter for the code in sandboxes, which must have IPython; by default the one that runs Greenroom."""


def _make(options: BubblewrapOptions) -> Engine:
    from greenroom.engines.bubblewrap.engine import BubblewrapEngine  # noqa: PLC0415  loaded only when used

    return BubblewrapEngine(python=options.python, allow_unfiltered=options.allow_unfiltered)


PLUGIN = EnginePlugin(BubblewrapOptions, _make)
