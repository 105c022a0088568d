"""Drives a strict server by Microsoft's OpenAPI documents. Run it with `make openapi`.

It fails if a difference is not in `differences.toml`, if one that is there no longer occurs, if the server answers with
5xx or closes a connection, writes to its stderr, does not end, or leaves a process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import documents
from .differences import load

ROOT = Path(__file__).parents[2]
SCHEMATHESIS = ROOT / ".venv-openapi/bin/st"
POOL = "bubblewrap:?preload=&ready_session_instances=1&max_concurrent_sessions=8"
SEED = 1


def compare(
    log: Path,
    *,
    versions: Sequence[str] = documents.VERSIONS,
    pool: str = POOL,
    examples: int = 40,
    phases: str = "examples,coverage,fuzzing,stateful",
    folder: Path | None = None,
) -> tuple[list[str], set[str]]:
    """Return what is wrong, and the names of the accepted differences that occurred.

    Args:
        log: a folder for the server's output and Schemathesis's.
        versions: those whose documents are used.
        pool: the server's; its URL chooses the engine.
        examples: random requests per operation and document.
        phases: Schemathesis's.
        folder: one with Microsoft's own documents; see `documents.load`.
    """
    wrong: list[str] = []
    accepted = log / "accepted"
    accepted.touch()
    with _serving(log, pool, wrong) as address:
        for version in versions:
            document = log / f"{version}.json"
            document.write_text(json.dumps(documents.load(version, folder)))
            report = log / f"{version}.txt"
            with report.open("w") as output:
                ended = subprocess.run(
                    [
                        SCHEMATHESIS, "--no-color", "run", document, "--url", address, "--checks", "all",
                        "--continue-on-failure", "--no-shrink", "--max-examples", str(examples), "--seed", str(SEED),
                        "--generation-deterministic", "--phases", phases,
                        "--request-timeout", "60", "--suppress-health-check", "all",
                    ],
                    cwd=log,
                    env={
                        **os.environ,
                        "SCHEMATHESIS_HOOKS": "hooks",
                        "PYTHONPATH": str(Path(__file__).parent),
                        "GREENROOM_OPENAPI_ACCEPTED": str(accepted),
                        "GREENROOM_OPENAPI_VERSION": version,
                    },
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    check=False,
                )  # fmt: skip
            if ended.returncode != 0:
                wrong.append(f"Schemathesis with {version}:\n{report.read_text()}")
    return wrong, set(accepted.read_text().split())


@contextmanager
def _serving(log: Path, pool: str, wrong: list[str]) -> Generator[str]:
    """A server as a user would run it; what it did wrong is added at its end."""
    output, errors = log / "server.jsonl", log / "server.txt"
    with output.open("w") as access, errors.open("w") as stderr:
        process = subprocess.Popen(
            [Path(sys.executable).with_name("greenroom"), "serve", "--port", "0", "--strict", "--pool", pool],
            stdout=access,
            stderr=stderr,
        )
    try:
        yield _address(process, errors)
    finally:
        below = _below(process.pid)
        process.terminate()
        try:
            wrong += [f"The server ended with {code}."] if (code := process.wait(60)) else []
        finally:
            process.kill()
    said = errors.read_text().splitlines()[
        4:
    ]  # its address and its pages, no authentication, and where created pools are kept
    wrong += [f"The server wrote: {said}"] if said else []
    left = {pid for pid, start in below.items() if _started(pid) == start}
    wrong += [f"The server left processes: {left}"] if left else []
    statuses = Counter(json.loads(line)["status"] for line in output.read_text().splitlines())
    print("Responses:", ", ".join(f"{count} with {status}" for status, count in sorted(statuses.items())))
    wrong += [f"The server failed: {statuses}"] if max(statuses, default=0) >= 500 else []


def _address(process: subprocess.Popen[bytes], errors: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if match := re.search(r"Serving .* at (\S+)\n", errors.read_text()):
            return match[1]
        time.sleep(0.05)
    raise RuntimeError(f"The server did not start: {errors.read_text()}")


def _below(owner: int) -> dict[int, str]:
    """The processes below one, with the times of their start."""
    parents = {pid: int(fields[1]) for pid in _processes() if (fields := _stat(pid))}
    found = {owner}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: start for pid in found - {owner} if (start := _started(pid))}


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="make openapi", description=__doc__)
    parser.add_argument("--examples", type=int, default=40, help="random requests per operation and document")
    parser.add_argument("--pool", default=POOL, help="URL of the server's pool")
    parser.add_argument("--documents", type=Path, help="a folder with Microsoft's own: VERSION/DynamicSessions.json")
    parser.add_argument("versions", nargs="*", default=documents.VERSIONS, help="versions of the API")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as log:
        wrong, accepted = compare(
            Path(log),
            versions=arguments.versions,
            pool=arguments.pool,
            examples=arguments.examples,
            folder=arguments.documents,
        )
    if tuple(arguments.versions) == documents.VERSIONS:
        gone = [name for name, difference in load().items() if name not in accepted and not difference.by_chance]
        wrong += [f"These accepted differences no longer occur: {', '.join(gone)}"] if gone else []
    print("Accepted differences that occurred:", ", ".join(sorted(accepted)))
    sys.exit("\n".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
