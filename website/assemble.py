"""Copies the pages of the navigation into one folder, with links that lead from page to page of the site."""

from __future__ import annotations

import json
import posixpath
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parent.parent
# Code has no links. Then the target of a link: all up to the first parenthesis or anchor.
LINK = re.compile(
    r"(?P<code>^```.*?^```|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`))|\]\((?P<target>[^)#\s]*)(?P<anchor>#[^)\s]*)?\)",
    re.DOTALL | re.MULTILINE,
)


class PagesWrong(Exception):
    """The pages and the navigation are inconsistent. Each argument is one reason."""


def assemble(work: Path, root: Path = ROOT) -> None:
    """Write the pages, the files that they link to and the settings of Zensical into `work`.

    Raises `PagesWrong` for a page that is not in the navigation exactly once, and for a broken link.
    """
    navigation = tomllib.loads((root / "website/nav.toml").read_text())
    entries = list(_entries(navigation, root))
    pages = {path: _site_path(path) for path, _ in entries}
    wrong = [
        f"{path} is in website/nav.toml twice" for path in pages if [found for found, _ in entries].count(path) > 1
    ]
    wrong += [f"{path} is in website/nav.toml and does not exist" for path in pages if not (root / path).is_file()]
    documents = {path.relative_to(root).as_posix() for path in (root / "docs").rglob("*.md")}
    wrong += [f"{path} is not in website/nav.toml" for path in sorted(documents - pages.keys())]
    if wrong:
        raise PagesWrong(*wrong)
    files: dict[str, str] = {}
    contents = {"style.css": (root / "website/style.css").read_bytes()}
    for path, site_path in pages.items():
        text, broken = _with_site_links(path, (root / path).read_text(), pages, files, root)
        wrong += broken
        contents[site_path] = text.encode()
    if wrong:
        raise PagesWrong(*wrong)
    contents |= {site_path: (root / path).read_bytes() for path, site_path in files.items()}
    for site_path, content in contents.items():
        _write(work / "pages" / site_path, content)
    for path in (work / "pages").rglob("*"):
        if path.is_file() and path.relative_to(work / "pages").as_posix() not in contents:
            path.unlink()
    _write(work / "zensical.toml", _settings(navigation, root).encode())


def _entries(section: dict[str, Any], root: Path) -> Iterator[tuple[str, str]]:
    """Each page of a section of the navigation, and its title there."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from _entries(cast("dict[str, Any]", value), root)
        elif "*" in key:
            for path in sorted(root.glob(key)):
                yield path.relative_to(root).as_posix(), path.read_text().split("\n", 1)[0].removeprefix("# ")
        else:
            yield key, value


def _site_path(path: str) -> str:
    """Return the path of a page on the site: `docs/` is its root, and a README is the index of its folder."""
    folder, name = posixpath.split(path.removeprefix("docs/"))
    name = "index.md" if name == "README.md" else name
    return posixpath.join(folder, name.lower() if not folder else name)


def _with_site_links(
    path: str, text: str, pages: dict[str, str], files: dict[str, str], root: Path
) -> tuple[str, list[str]]:
    """Return the page with the site's links, and the broken ones. Adds linked files to `files`."""
    broken: list[str] = []
    here = posixpath.dirname(pages[path])

    def rewrite(match: re.Match[str]) -> str:
        target = match["target"]
        if match["code"] or not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        goal = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
        if not (root / goal).exists():
            broken.append(f"{path}: {target} does not exist")
            return match[0]
        readme = posixpath.join(goal, "README.md")
        if (site_path := pages.get(goal) or pages.get(readme)) is None:
            if not (root / goal).is_file() or goal.endswith(".md"):
                return "](\0)"
            site_path = goal.removeprefix("docs/") if goal.startswith("docs/") else f"source/{goal}"
            files[goal] = site_path
        return f"]({posixpath.relpath(site_path, here or '.')}{match['anchor'] or ''})"

    rewritten = LINK.sub(rewrite, text)
    # A folder without a page, or a document that is no page: the text stays, and the link goes.
    return re.sub(r"\[([^\[\]]*)\]\(\0\)", r"\1", rewritten), broken


def _settings(navigation: dict[str, Any], root: Path) -> str:
    """Zensical's settings, with the navigation in its own form."""

    def written(section: dict[str, Any]) -> str:
        parts: list[str] = []
        for key, value in section.items():
            if isinstance(value, dict):
                parts.append(f"{{ {json.dumps(key)} = {written(cast('dict[str, Any]', value))} }}")
            else:
                for path, title in _entries({key: value}, root):
                    parts.append(f"{{ {json.dumps(title, ensure_ascii=False)} = {json.dumps(_site_path(path))} }}")
        return f"[{', '.join(parts)}]"

    text = (root / "website/zensical.toml").read_text()
    sources = [str(path) for path in sorted(root.glob("packages/*/src"))]
    text = text.replace('paths = ["PACKAGES"]', f"paths = {json.dumps(sources)}")
    return text.replace("[project]\n", f"[project]\nnav = {written(navigation)}\n", 1)


def _write(path: Path, content: bytes) -> None:
    """Write a file if its content has changed, so that unchanged files are not rebuilt."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_bytes() != content:
        path.write_bytes(content)
