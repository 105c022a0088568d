"""`python -m load`: measure the service, print the result as JSON, and write it as a page."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from load.page import page_of
from load.run import measure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m load", description=__doc__)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pause", type=float, nargs="+", default=[0.0, 1.0], help="one run for each")
    parser.add_argument("--page", type=Path, help="the page to write")
    arguments = parser.parse_args()
    results = [
        measure(users=arguments.users, seconds=arguments.seconds, pause=pause, workers=arguments.workers)
        for pause in arguments.pause
    ]
    print(json.dumps([asdict(result) for result in results], indent=1))
    if arguments.page is not None:
        arguments.page.write_text(page_of(results, arguments.workers), encoding="utf-8")
    sys.exit(not all(result.is_sound for result in results))


if __name__ == "__main__":
    main()
