"""The versions in CHANGELOG.md and in the distributions' files."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

from packaging.version import InvalidVersion, Version

from releasing.distributions import FOLDERS, ROOT

CHANGELOG = ROOT / "CHANGELOG.md"
UNRELEASED = "## Unreleased"

_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)


def entry(changelog: str, version: str) -> tuple[str, bool]:
    """Return what changed in a version, and whether the version has a date.

    Raises:
        ValueError: the newest entry is not for the version, or is empty.
    """
    headings = list(_HEADING.finditer(changelog))
    if not headings:
        raise ValueError("CHANGELOG.md must have an entry.")
    dated = re.fullmatch(re.escape(version) + r", \d{4}-\d\d-\d\d", headings[0][1]) is not None
    if headings[0][0] != UNRELEASED and not dated:
        raise ValueError(
            f"The first heading of CHANGELOG.md must be '{UNRELEASED}' or '## {version}, YYYY-MM-DD', "
            f"not '{headings[0][0]}'."
        )
    text = changelog[headings[0].end() : headings[1].start() if len(headings) > 1 else None].strip()
    if not text:
        raise ValueError(f"The entry of {version} in CHANGELOG.md must not be empty.")
    return text, dated


def set_version(version: str, today: datetime.date, root: Path = ROOT) -> None:
    """Set the version of the distributions, and move the unreleased changes to this version and date.

    Raises:
        ValueError: the version is not valid or already in the changelog, or there are no unreleased changes.
    """
    try:
        major, minor = Version(version).release[:2]
    except (InvalidVersion, ValueError):
        raise ValueError(f"VERSION must be like 1.2.3, not {version!r}.") from None
    changelog = (root / CHANGELOG.name).read_text()
    if re.search(rf"^## {re.escape(version)}\b", changelog, re.MULTILINE):
        raise ValueError(f"VERSION must be new, not {version}, which CHANGELOG.md has.")
    entry(changelog, version)
    if f"{UNRELEASED}\n" not in changelog:
        raise ValueError(f"CHANGELOG.md must have '{UNRELEASED}'.")
    (root / CHANGELOG.name).write_text(changelog.replace(UNRELEASED, f"## {version}, {today.isoformat()}", 1))
    bounds = f">={major}.{minor},<{major}.{minor + 1}"
    places = [root / "pyproject.toml", *(root / "packages" / folder / "pyproject.toml" for folder in FOLDERS)]
    for place in places:
        text = re.sub(r'^version = ".*"$', f'version = "{version}"', place.read_text(), count=1, flags=re.MULTILINE)
        place.write_text(re.sub(r'(?<=")(greenroom\[\w+\])>=[\d.]+,<[\d.]+', rf"\g<1>{bounds}", text))
    module = root / "packages/core/src/greenroom/__init__.py"
    module.write_text(re.sub(r'(?m)^__version__ = ".*"$', f'__version__ = "{version}"', module.read_text()))
    page = root / "docs/versioning.md"
    page.write_text(re.sub(r"(?<=`greenroom)>=[\d.]+,<[\d.]+(?=`)", bounds, page.read_text()))
