"""The command line: `greenroom run | doctor | image`."""

from greenroom.cli.app import main

__all__ = ["main"]
