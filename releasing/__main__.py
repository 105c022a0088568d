"""The steps of a release: `make release` runs them in order, after `make version`."""

from __future__ import annotations

import argparse
import datetime
import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from releasing import changes, contents, parts, source, sums
from releasing.distributions import FOLDERS, build, version
from releasing.readiness import KEY, failure, missing, unsigned


def build_release(target: Path) -> None:
    """Build, check and describe the distributions.

    Raises:
        ValueError: a check failed.
    """
    if fault := source.uncommitted():
        raise ValueError(fault)
    commit = source.head()
    address = source.repository() or source.PLACEHOLDER
    notes, _ = changes.entry(changes.CHANGELOG.read_text(), version())
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="greenroom-release-") as name:
        directory = Path(name)
        build_twice(target, directory, address, commit.time)
        say(f"built {len(FOLDERS)} wheels and source distributions of {version()}, twice, byte for byte the same")
        _refuse(contents.faults(target))
        say("checked metadata, contents and READMEs")
        listed = parts.write_parts(target / f"greenroom-{version()}.cdx.json", target, directory, commit.time)
    found, faults = parts.licences(json.loads(listed.read_text()), parts.read_rules())
    _refuse(faults)
    (target / "LICENCES.md").write_text(parts.table(found))
    say(f"listed {len(found)} dependencies in {listed.name}, and their licences in LICENCES.md")
    (target / "CHANGES.md").write_text(f"# Greenroom {version()}\n\n{notes}\n")


def build_twice(target: Path, directory: Path, address: str, epoch: int) -> None:
    """Build all distributions in two places, the second time with other permissions and another time zone.

    Raises:
        ValueError: the two builds differ.
    """
    packages = source.export(directory / "packages", address)
    build(target, *FOLDERS, packages=packages, epoch=epoch)
    mask, zone = os.umask(0o077), os.environ.get("TZ")
    os.environ["TZ"] = "Pacific/Chatham"
    try:
        packages = source.export(directory / "elsewhere/once more", address)
        again = build(directory / "again", *FOLDERS, packages=packages, epoch=epoch)
    finally:
        os.umask(mask)
        del os.environ["TZ"]
        if zone is not None:
            os.environ["TZ"] = zone
    names = sorted(path.name for path in target.iterdir())
    if names != sorted(path.name for path in again.iterdir()) or len(names) != 2 * len(FOLDERS):
        raise ValueError(f"Both builds must have one wheel and one source distribution each, not {names}.")
    _, different, unreadable = filecmp.cmpfiles(target, again, names, shallow=False)
    if different or unreadable:
        raise ValueError(f"Both builds must be the same, but {', '.join(different + unreadable)} differ.")


def sign_release(target: Path) -> None:
    """Write the checksums, and sign them if this is a release.

    Raises:
        ValueError: a key is given, but something is missing for a release.
    """
    written = sums.write_sums(target)
    reasons, key = unsigned(), os.environ.get(KEY)
    if key and reasons:
        raise ValueError(f"This cannot be signed as a release: {'; '.join(reasons)}.")
    if key:
        sums.sign(written, Path(key))
        say(f"signed {written.name}: {target} is Greenroom {version()}. Next: docs/releasing.md")
        return
    reasons.append(f"{KEY} must be the path of a key")
    say(f"wrote {written.name}. This is a rehearsal. For a release, {'; '.join(reasons)}.")


def say(text: str) -> None:
    print(f"release: {text}", flush=True)


def _refuse(faults: list[str]) -> None:
    if faults:
        raise ValueError("\n".join(faults))


def main() -> None:
    parser = argparse.ArgumentParser(prog="releasing", description=__doc__)
    steps = parser.add_subparsers(dest="step", required=True)
    steps.add_parser("check")
    for step in ("build", "sign"):
        steps.add_parser(step).add_argument("target", type=Path)
    steps.add_parser("version").add_argument("version")
    arguments = parser.parse_args()
    try:
        match arguments.step:
            case "check":
                _refuse(missing())
            case "build":
                build_release(arguments.target)
            case "sign":
                sign_release(arguments.target)
            case _:
                changes.set_version(arguments.version, datetime.datetime.now(datetime.UTC).date())
                print(source.git("diff", "--stat"))
    except ValueError as error:
        sys.exit(f"release: {error}")
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"release: {failure(error)}")


if __name__ == "__main__":
    main()
