"""Build, show and check the documentation's site. Runs in `.venv-docs`: see `make docs`."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

from website.assemble import ROOT, PagesWrong, assemble
from website.links import broken_links, external_links, unreachable

WORK = ROOT / ".cache/website"
ZENSICAL = Path(sys.executable).with_name("zensical")


def build(work: Path) -> int:
    """Build the site strictly into `work`/site, and check each link within it."""
    assemble(work)
    ended = subprocess.run(
        [ZENSICAL, "build", "--strict", "--clean"], check=False, cwd=work, capture_output=True, text=True
    )
    if ended.returncode:
        sys.stderr.write(ended.stdout + ended.stderr)
        return ended.returncode
    broken = broken_links(work / "site")
    for link in broken:
        print(f"leads nowhere, or loads from elsewhere: {link}", file=sys.stderr)
    if not broken:
        print(f"{work / 'site/index.html'}")
    return 1 if broken else 0


def serve(work: Path, address: str) -> int:
    """Serve the site, and rebuild it after each change of a page."""
    assemble(work)
    threading.Thread(target=_assemble_again, args=(work,), daemon=True).start()
    signal.signal(signal.SIGTERM, _exit)  # then Zensical is killed too
    return subprocess.run([ZENSICAL, "serve", "--dev-addr", address], check=False, cwd=work).returncode


def _exit(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(0)


def _assemble_again(work: Path) -> None:
    told = ""
    while True:
        time.sleep(1)
        if (wrong := what_is_wrong(work)) != told and wrong:
            print(wrong, file=sys.stderr, flush=True)
        told = wrong


def what_is_wrong(work: Path, root: Path = ROOT) -> str:
    """Assemble the pages, which may be changing; return why that failed, or nothing."""
    try:
        assemble(work, root)
    except PagesWrong as error:
        return "\n".join(error.args)
    except (OSError, ValueError) as error:  # a deleted file, or a partly written page or navigation
        return str(error)
    return ""


def check_external(work: Path) -> int:
    """Request each external address that the built site links to. Needs the internet."""
    links = external_links(work / "site")
    failed = unreachable(links)
    for address, reason in failed.items():
        print(f"{address}: {reason}, linked from {', '.join(sorted(links[address]))}", file=sys.stderr)
    print(f"{len(links) - len(failed)} of {len(links)} addresses answer")
    return 1 if failed else 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m website", description=__doc__)
    parser.add_argument("command", choices=["build", "serve", "check-external"])
    parser.add_argument("--work", type=Path, default=WORK, help="the folder for all output")
    parser.add_argument("--address", default="127.0.0.1:8000", help="where serve listens")
    arguments = parser.parse_args()
    work: Path = arguments.work.resolve()
    try:
        match arguments.command:
            case "build":
                return build(work)
            case "serve":
                return serve(work, arguments.address)
            case _:
                return check_external(work)
    except PagesWrong as error:
        print(*error.args, sep="\n", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
