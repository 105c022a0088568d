"""Packages of sessions: what is asked for, its lock with hashes, and environments that are made once.

Only what is ready to use is installed here: wheels, and Node packages without install scripts. No code of a package
runs outside a sandbox.
"""

from greenroom.engines.packages.wanted import OptionPackages, Packages

__all__ = ["OptionPackages", "Packages"]
