"""The corpus: public notebooks, and examples recorded in documentation, as lists of cells.

Nothing of it is kept here: `sources.toml` names each file by its repository and commit.
"""

from __future__ import annotations

import doctest
import hashlib
import importlib
import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat

LIST = Path(__file__).with_name("sources.toml")
CLONES = Path(__file__).parents[3] / ".cache" / "corpus"

_nbformat: Any = nbformat  # its types are unknown in part
_CODE_CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(?::[^\n]*\n)*(.*?)^```$", re.MULTILINE | re.DOTALL)  # in MyST


@dataclass(frozen=True)
class Document:
    """A notebook or a page of examples, which is one session."""

    source: str
    path: str
    cells: list[str]
    recorded: bool
    """Whether it is a page whose examples were recorded with their output, and not a notebook."""
    files: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Its data, by path below the session's directory."""

    @property
    def name(self) -> str:
        return f"{self.source}: {self.path}"


@dataclass(frozen=True)
class Source:
    """A repository at a commit, or an installed distribution, and what is taken from it."""

    licence: str
    copyright: str
    repository: str = ""
    commit: str = ""
    distribution: str = ""
    notebooks: list[str] = field(default_factory=list[str])
    recorded: list[str] = field(default_factory=list[str])
    """Pages with doctest's examples; or in a distribution, objects whose docstrings have such examples."""
    data: list[str] = field(default_factory=list[str])

    @property
    def name(self) -> str:
        return self.repository or self.distribution

    @property
    def version(self) -> str:
        return self.commit[:12] or importlib.metadata.version(self.distribution)

    def documents(self) -> Iterator[Document]:
        """Every document with its cells; fetches the commit unless it is there."""
        if self.distribution:
            for path in self.recorded:
                yield Document(self.name, path, _docstrings(path), recorded=True)
            return
        data = {path: self._read(path) for path in self.data}
        for path in [*self.notebooks, *self.recorded]:
            recorded = path in self.recorded
            text = self._read(path).decode()
            below = PurePosixPath(path).parent
            files = {
                str(PurePosixPath(name).relative_to(below)): content
                for name, content in data.items()
                if PurePosixPath(name).is_relative_to(below)
            }
            yield Document(self.name, path, _examples(text) if recorded else _cells(path, text), recorded, files)

    def _read(self, path: str) -> bytes:
        clone = CLONES / self.repository
        if not clone.exists():
            partial = clone.with_name(f"{clone.name}.part")
            shutil.rmtree(partial, ignore_errors=True)
            url = f"https://github.com/{self.repository}"
            subprocess.run(["git", "init", "--quiet", "--bare", partial], check=True)
            subprocess.run(["git", "-C", partial, "fetch", "--quiet", "--depth", "1", url, self.commit], check=True)
            partial.rename(clone)
        show = ["git", "-C", clone, "show", f"{self.commit}:{path}"]
        return subprocess.run(show, check=True, stdout=subprocess.PIPE).stdout


def load() -> list[Source]:
    return [Source(**source) for source in tomllib.loads(LIST.read_text())["source"]]


def digest() -> str:
    """A short hash of the list, by which a page shows what it was made of."""
    return hashlib.sha256(LIST.read_bytes()).hexdigest()[:16]


def _cells(path: str, text: str) -> list[str]:
    if path.endswith(".md"):
        cells = _CODE_CELL.findall(text)
    else:
        notebook = _nbformat.reads(text, as_version=4)
        cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in cells if cell.strip()]


def _examples(text: str) -> list[str]:
    examples = doctest.DocTestParser().get_examples(text)
    return [example.source for example in examples if not example.options.get(doctest.SKIP)]


def _docstrings(path: str) -> list[str]:
    """The examples of a class with its methods, or of a function."""
    module, _, name = path.rpartition(".")
    target = getattr(importlib.import_module(module), name)
    found = doctest.DocTestFinder(exclude_empty=True).find(target, name)
    examples = (example for test in sorted(found, key=lambda test: test.name) for example in test.examples)
    return [example.source for example in examples if not example.options.get(doctest.SKIP)]
