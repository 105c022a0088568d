"""The released files of the distributions: those in git, with links that work outside of the repository."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from dataclasses import dataclass
from pathlib import Path

from releasing.distributions import FOLDERS, ROOT, version

PLACEHOLDER = "https://example.invalid/greenroom"

_LINK = re.compile(r"(?<=\]\()(?!https?://|mailto:|#)([^)#\s]+)")


@dataclass(frozen=True)
class Commit:
    """What is released."""

    name: str
    """Its hash."""
    time: int
    """When it was committed, in seconds since 1970."""


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def head() -> Commit:
    name, time = git("log", "-1", "--format=%H %ct").split()
    return Commit(name, int(time))


def uncommitted() -> str | None:
    """Return a sentence that names uncommitted changes, which cannot be released; `None` if there are none."""
    changed = [line.split(maxsplit=1)[1] for line in git("status", "--porcelain").splitlines()]
    return f"A release is what was committed. Commit or remove: {', '.join(changed)}." if changed else None


def repository() -> str | None:
    """The address of the repository, if pyproject.toml has it."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    return urls["Repository"].rstrip("/") if "Repository" in urls else None


def export(target: Path, address: str) -> Path:
    """Copy the packages as they are in git's index, for a release from a repository's address; return the target.

    Relative links of READMEs lead to the files of the version's tag, and the metadata have the addresses.

    Raises:
        ValueError: a link does not lead to a file.
    """
    for name in git("ls-files", "-z", "packages").split("\0"):
        if name and (ROOT / name).exists():
            copy = target / Path(name).relative_to("packages")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy)
    tag = f"v{version()}"
    for folder in FOLDERS:
        readme = target / folder / "README.md"
        readme.write_text(_with_absolute_links(readme.read_text(), f"packages/{folder}", f"{address}/blob/{tag}"))
        with (target / folder / "pyproject.toml").open("a") as metadata:
            metadata.write(
                f'\n[project.urls]\nRepository = "{address}"\nDocumentation = "{address}/tree/{tag}/docs"\n'
                f'Changelog = "{address}/blob/{tag}/CHANGELOG.md"\nIssues = "{address}/issues"\n'
            )
    return target


def _with_absolute_links(text: str, folder: str, address: str) -> str:
    def absolute(link: re.Match[str]) -> str:
        path = (ROOT / folder / link[1]).resolve()
        if not path.exists():
            raise ValueError(f"{folder}/README.md links to {link[1]}, which does not exist.")
        return f"{address}/{path.relative_to(ROOT)}"

    return _LINK.sub(absolute, text)
