"""The requested packages: requirements in pip's format, requirements files, or a lock of Node packages."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.parse import unquote

from pydantic import BeforeValidator

from greenroom.errors import InvalidRequest
from greenroom.untrusted import brief, printable

NODE_LOCKS = ("package-lock.json", "npm-shrinkwrap.json")
BUILD_A_WHEEL = (
    "If you trust it, build a wheel (pip wheel --no-deps) and name the wheel, or build it in an image "
    "(greenroom image build --package, for the engine docker)"
)
"""What to do about a package that has no wheel."""

_FILES = (".txt", ".in", ".json", ".whl")
_MOST_FILES = 100
_MOST_BYTES = 8 << 20
_LONGEST = 1000
_REQUIREMENT = re.compile(r"[A-Za-z0-9][^\x00-\x1f\x7f-\x9f]*")
_LOCAL_WHEEL = re.compile(r"^(?:[\w.\[\], -]+@ *)?(?:file:(?://)?)?((?:\.{1,2}/|/|~/)[^#?;]*\.whl)")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
# Of `httpx[http2]>=0.27,<1,polars`, the second comma ends a requirement.
_BETWEEN = re.compile(r"\s*[,\n]\s*(?![^\[]*\])(?=[A-Za-z0-9./~])")
_OPTION = re.compile(r"(-[A-Za-z]|--[a-z-]+)(?:[ =]*)(.*)")
_REQUIREMENTS = {"-r", "--requirement"}
_CONSTRAINTS = {"-c", "--constraint"}
_HARMLESS = {
    *("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index", "--trusted-host"),
    *("--pre", "--prefer-binary", "--require-hashes", "--only-binary"),
}
_SOURCES = re.compile(r"(?:git|hg|svn|bzr)\+|(?:[a-z]+://|\.{1,2}/|/|~/)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Packages:
    """The packages of a pool or an image; falsy if there are none."""

    requirements: tuple[str, ...] = ()
    """Requirements in pip's format, such as `polars>=1`."""
    files: tuple[Path, ...] = ()
    """Absolute paths of requirements files, or of one lock of Node packages."""

    @classmethod
    def parse(cls, value: object) -> Packages:
        """Return the packages of an option: a requirement, a file's path, a list of these, or `polars,httpx>=0.27,<1`.

        Raises:
            ValueError: an item is none of these.
        """
        if isinstance(value, Packages):
            return value
        if value is None:
            return cls()
        if isinstance(value, str):
            value = [item for item in _BETWEEN.split(value.strip()) if item]
        if isinstance(value, os.PathLike):
            value = [cast("os.PathLike[str]", value)]
        if not isinstance(value, Sequence) or isinstance(value, bytes):
            raise ValueError("must be package names, or the path of a requirements file or a package-lock.json")
        requirements: list[str] = []
        files: list[Path] = []
        for item in cast("Sequence[Any]", value):
            if _is_file(item):
                file = _path(item)
                if file.suffix == ".whl":
                    requirements.append(f"{file.name.partition('-')[0]} @ {file.as_uri()}")
                else:
                    files.append(file)
            elif isinstance(item, str):
                requirements.append(_checked(item.strip()))
            else:
                raise ValueError(f"must contain package names or file paths, not {type(item).__name__}")
        if any(file.suffix == ".json" for file in files) and len(files) + len(requirements) > 1:
            raise ValueError("must be either a single package-lock.json or Python packages")
        return cls(tuple(requirements), tuple(files))

    def __bool__(self) -> bool:
        return bool(self.requirements or self.files)

    @property
    def node_lock(self) -> Path | None:
        """The lock of Node packages, if there is one."""
        return next((file for file in self.files if file.suffix == ".json"), None)

    def described(self) -> str:
        """Return the packages as text for messages."""
        return ", ".join([*self.requirements, *(printable(file.name) for file in self.files)])

    def read(self) -> str:
        """Check the requirements, and return everything that determines the packages.

        Raises:
            InvalidRequest: a file cannot be read, or a line asks for something that is not a wheel.
        """
        return "".join(f"{line.text} {line.digest}\n" for line in self._lines())

    def hashes(self) -> dict[str, frozenset[str]]:
        """Return the hashes in the requirements, by package name.

        Raises:
            InvalidRequest: as for `read`.
        """
        found: dict[str, frozenset[str]] = {}
        for line in self._lines():
            given = re.findall(r"--hash[ =]([\w:]+)", line.text)
            if given and (name := _NAME.match(line.text)) is not None:
                found[normalized(name[0])] = frozenset(given) | found.get(normalized(name[0]), frozenset())
        return found

    def flattened(self, wheels_at: str) -> Flattened:
        """Return the requirements as self-contained files, for another machine.

        Args:
            wheels_at: the directory in which the local wheels will be.

        Raises:
            InvalidRequest: as for `read`.
        """
        texts: dict[bool, list[str]] = {False: [], True: []}
        wheels: dict[str, Path] = {}
        for line in self._lines():
            text = line.text
            if line.wheel is not None:
                wheels[line.wheel.name] = line.wheel
                text = _LOCAL_WHEEL.sub(f"{wheels_at}/{line.wheel.name}", text, count=1)
            if not line.includes:
                texts[line.is_constraint].append(f"{text}\n")
        return Flattened("".join(texts[False]), "".join(texts[True]), wheels)

    def _lines(self) -> Iterator[_Line]:
        for requirement in self.requirements:
            yield _requirement(requirement, Path.cwd())
        seen: list[Path] = []
        for file in self.files:
            yield from _lines_of(file, seen)


@dataclass(frozen=True, slots=True)
class Flattened:
    """Self-contained requirements."""

    requirements: str
    constraints: str
    wheels: dict[str, Path]
    """Local wheels, by name."""


@dataclass(frozen=True, slots=True)
class _Line:
    text: str
    wheel: Path | None = None
    """The local wheel, if the line names one."""
    digest: str = ""
    """The digest of that wheel."""
    includes: bool = False
    """Whether the line includes another file, whose lines follow."""
    is_constraint: bool = False


OptionPackages = Annotated[Packages, BeforeValidator(Packages.parse)]
"""The type of the option `packages`."""


def normalized(name: str) -> str:
    """Return the normalized name of a package."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_file(file: Path) -> bytes:
    """Return the content of a file that lists packages.

    Raises:
        InvalidRequest: it cannot be read, or is too large.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InvalidRequest(f"The package file {printable(str(file))} cannot be read: {error.strerror}.") from None
    if len(content) > _MOST_BYTES:
        raise InvalidRequest(f"The package file {printable(str(file))} must be at most {_MOST_BYTES:,} bytes.")
    return content


def refuse_source(requirement: str, place: str = "") -> None:
    """Refuse a requirement that names a source other than a wheel.

    Raises:
        InvalidRequest: pip would build it here, and so run its code.
    """
    name, at, url = requirement.partition("@")
    target = (url if at and _NAME.fullmatch(name.partition("[")[0].strip()) else requirement).strip()
    target = target.partition(";")[0].strip()
    if not at and not _SOURCES.match(target) and not re.search(r"\.(?:zip|tar(?:\.\w+)?|tgz)$", target):
        return
    if target.split("#")[0].split(" ")[0].split("?")[0].endswith(".whl") and not re.match(r"\w+\+", target):
        return
    raise InvalidRequest(
        f"The package {printable(requirement)!s:.200}{place} must be a wheel: nothing is built on this machine, "
        f"because a build runs the package's code. {BUILD_A_WHEEL}."
    )


def _requirement(text: str, directory: Path, place: str = "", *, is_constraint: bool = False) -> _Line:
    requirement = text.split(" --", maxsplit=1)[0].strip()
    refuse_source(requirement, place)
    if (match := _LOCAL_WHEEL.search(requirement)) is None:
        return _Line(text, is_constraint=is_constraint)
    wheel = directory / Path(unquote(match[1])).expanduser()
    try:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    except OSError as error:
        raise InvalidRequest(f"The wheel {printable(str(wheel))}{place} cannot be read: {error.strerror}.") from None
    return _Line(text, wheel, digest, is_constraint=is_constraint)


def _is_file(item: object) -> bool:
    if isinstance(item, os.PathLike):
        return True
    return isinstance(item, str) and item.endswith(_FILES) and "@" not in item and " " not in Path(item).name


def _path(item: str | os.PathLike[str]) -> Path:
    try:
        path = Path(item).expanduser()
    except (RuntimeError, TypeError):
        raise ValueError("must have resolvable paths") from None
    if "\0" in str(path):
        raise ValueError("must have file paths without NUL characters")
    if path.suffix == ".json" and path.name not in NODE_LOCKS:
        raise ValueError(f"must have a lock of Node packages named {NODE_LOCKS[0]}")
    return path.absolute()


def _checked(item: str) -> str:
    if len(item) > _LONGEST or not _REQUIREMENT.fullmatch(item):
        raise ValueError(
            f"must have package names in pip's form, such as polars>=1, or files such as requirements.txt, "
            f"not {brief(item)}"
        )
    return item


def _lines_of(file: Path, seen: list[Path], *, is_constraint: bool = False) -> Iterator[_Line]:
    """Yield the lines of a requirements file and of those that it includes, checked and without comments."""
    if file in seen:
        return
    seen.append(file)
    if len(seen) > _MOST_FILES:
        raise InvalidRequest(f"The package file {printable(file.name)} must include at most {_MOST_FILES} files.")
    place = f" in {printable(file.name)}"
    try:
        text = read_file(file).decode("utf-8-sig").replace("\\\r\n", " ").replace("\\\n", " ")
    except UnicodeDecodeError:
        raise InvalidRequest(f"The package file {printable(str(file))} must be text in UTF-8.") from None
    for line in text.splitlines():
        line = re.sub(r"(?:^|\s)#.*", "", line).strip()  # noqa: PLW2901
        if not line:
            continue
        option = _OPTION.match(line)
        if option is None:
            yield _requirement(line, file.parent, place, is_constraint=is_constraint)
        elif (name := option[1]) in _REQUIREMENTS or name in _CONSTRAINTS:
            yield _Line(line, includes=True)
            inner = (file.parent / option[2].strip()).absolute()
            yield from _lines_of(inner, seen, is_constraint=is_constraint or name in _CONSTRAINTS)
        elif name in _HARMLESS:
            yield _Line(line, is_constraint=is_constraint)
        else:
            raise InvalidRequest(
                f"The line {brief(line)}{place} cannot be used: only wheels are installed, so {name} is not supported. "
                f"{BUILD_A_WHEEL}."
            )
