"""The command line: `greenroom run | doctor | sweep | image`."""

from greenroom.cli.app import main

__all__ = ["main"]
