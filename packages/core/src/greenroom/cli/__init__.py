"""The command line: `greenroom run | doctor | sweep | serve | api-key | image`."""

from greenroom.cli.app import main

__all__ = ["main"]
