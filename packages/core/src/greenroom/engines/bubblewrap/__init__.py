"""Sandboxes started with bubblewrap: no daemon and no image."""

from __future__ import annotations

from greenroom.engines.base import Engine, EnginePlugin, IsolationOptions
from greenroom.engines.packages import OptionPackages, Packages


class BubblewrapOptions(IsolationOptions):
    """The options of `bubblewrap:`."""

    python: str | None = None
    """The interpreter for the code in sandboxes, which must have IPython; by default the one that runs Greenroom."""
    packages: OptionPackages = Packages()
    """Packages in addition to those of the interpreter: requirements in pip's form, paths of requirements files or
    wheels, or for NodeLTS the path of a package-lock.json. They are installed when the first pool with them opens."""

    fork: bool = True
    """Whether Python sandboxes are forked from a template, a process that has already loaded the interpreter and the
    preloaded modules. Forks start fast and share that memory, but also the address layout and Python's hash secret.
    With `fork=off`, or with `packages`, each sandbox is started from scratch."""


def _make(options: BubblewrapOptions) -> Engine:
    from greenroom.engines.bubblewrap.engine import BubblewrapEngine  # noqa: PLC0415  loaded only when used

    return BubblewrapEngine(
        python=options.python,
        packages=options.packages,
        allow_unfiltered=options.allow_unfiltered,
        fork=options.fork,
    )


PLUGIN = EnginePlugin(BubblewrapOptions, _make)
