"""Packages for sessions: requirements, locks with hashes, and environments that are created once. Only packages that
need no build are installed: wheels, and Node packages without install scripts. No code of a package runs outside a
sandbox.
"""

from greenroom.engines.packages.wanted import OptionPackages, Packages

__all__ = ["OptionPackages", "Packages"]
