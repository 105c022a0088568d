"""The command line: `greenroom run | doctor | sweep | serve | api-key | image | pool | session`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or report the extra that it needs."""
    try:
        from greenroom.cli.app import main as run  # noqa: PLC0415  its dependencies are an extra
    except ModuleNotFoundError as error:
        if error.name not in {"rich", "typer"}:
            raise
        print(
            f"The command line needs the package {error.name}. Install it with: pip install 'greenroom[cli]'.",
            file=sys.stderr,
        )
        sys.exit(2)
    run()


__all__ = ["main"]
