"""Sandboxes started with bubblewrap: no daemon and no image."""

from __future__ import annotations

from greenroom.engines.base import Engine, EnginePlugin, IsolationOptions
from greenroom.engines.packages import OptionPackages, Packages


class BubblewrapOptions(IsolationOptions):
    """The options of `bubblewrap:`."""

    python: str | None = None
    """The interpreter for the code in sandboxes, which must have IPython; by default the one that runs Greenroom."""
    packages: OptionPackages = Packages()
    """Packages that sandboxes have beside those of the interpreter: names as pip reads them, paths of requirements
    files, or for NodeLTS the path of a package-lock.json. The first pool that opens with them installs them."""

    fork: bool = True
    """Whether sandboxes of Python are forked from a template, a process that has the interpreter and the preloaded
    modules in its memory. They start fast and share that memory, but also the layout of addresses and Python's secret
    for hashes. Without it, or with `packages`, each of them is started anew."""


def _make(options: BubblewrapOptions) -> Engine:
    from greenroom.engines.bubblewrap.engine import BubblewrapEngine  # noqa: PLC0415  loaded only when used

    return BubblewrapEngine(
        python=options.python,
        packages=options.packages,
        allow_unfiltered=options.allow_unfiltered,
        fork=options.fork,
    )


PLUGIN = EnginePlugin(BubblewrapOptions, _make)
