"""The dependencies of the distributions: an SBOM in CycloneDX's format, and their licences."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing  # pyright: ignore[reportMissingTypeStubs]

from releasing.distributions import FOLDERS, ROOT, UV, project, version, wheel_of, with_extras

RULES = ROOT / "releasing/licences.toml"


@dataclass(frozen=True)
class Part:
    """A distribution that Greenroom can install as a dependency."""

    name: str
    version: str
    licence: str
    """An SPDX expression, or the text in its place."""
    reason: str = ""
    """Why a licence that is not permissive is accepted."""


def write_parts(target: Path, wheels: Path, directory: Path, epoch: int) -> Path:
    """Install the wheels with all extras at the locked versions, and write and validate the list of what that brings.

    Args:
        target: the file.
        wheels: all five.
        directory: an empty one, for the environment.
        epoch: the time that the list gives, in seconds.

    Raises:
        subprocess.CalledProcessError: an installation failed, or the list is not valid.
    """
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, directory / "venv"], check=True)
    python = directory / "venv/bin/python"
    pip = [UV, "pip", "install", "--quiet", "--python", python]
    # By path, as another project's `greenroom` on an index must not be taken.
    own = [f"{with_extras(folder)} @ {wheel_of(wheels, folder).absolute().as_uri()}" for folder in FOLDERS]
    subprocess.run([*pip, "--constraint", ROOT / "requirements.lock", *own], check=True)
    # Once more by name, as the list must not have this machine's paths.
    again = ["--no-index", "--no-deps", "--reinstall", "--find-links", wheels]
    subprocess.run([*pip, *again, *(project(folder)["name"] for folder in FOLDERS)], check=True)
    whole = directory / "pyproject.toml"
    names = json.dumps([project(folder)["name"] for folder in FOLDERS])
    whole.write_text(
        f'[project]\nname = "greenroom-distributions"\nversion = "{version()}"\nlicense = "MIT"\n'
        f"dependencies = {names}\n"
    )
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--spec-version", "1.6"]
    subprocess.run(
        [*command, "--mc-type", "library", "--pyproject", whole, "--output-file", target, python],
        check=True,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
    )
    return target


def licences(listed: dict[str, Any], rules: dict[str, Any]) -> tuple[list[Part], list[str]]:
    """Return the parts that are not Greenroom's own, and the faults of their licences, one sentence each.

    Args:
        listed: the file that `write_parts` wrote.
        rules: the content of `RULES`.
    """
    own = {project(folder)["name"] for folder in FOLDERS}
    parts: list[Part] = []
    faults: list[str] = []
    spdx: Any = get_spdx_licensing()  # its names have no types
    exceptions: dict[str, dict[str, str]] = dict(rules["exceptions"])
    for component in sorted(listed["components"], key=lambda each: each["name"].lower()):
        name: str = component["name"]
        if name in own:
            continue
        licence = rules["read"].get(name) or _stated(component, rules["names"])
        exception = exceptions.pop(name, None)
        if exception is not None and exception["licence"] != licence:
            faults.append(f"The exception for {name} must be for {licence}, not {exception['licence']}.")
        if exception is None and not _is_permissive(licence, rules["permissive"], spdx):
            faults.append(f"The licence of {name} must be permissive, not {licence or 'unknown'}.")
        parts.append(Part(name, component["version"], licence, exception["reason"] if exception else ""))
    faults += [f"The exception for {name} must go: no distribution needs it." for name in exceptions]
    return parts, faults


def table(parts: list[Part]) -> str:
    """The parts as a page of Markdown."""
    rows = [f"| {part.name} | {part.version} | {part.licence} | {part.reason} |" for part in parts]
    head = (
        f"# Licences of what Greenroom {version()} can bring with it\n\n"
        "All dependencies of the five distributions with all extras, at the versions that the release was tested\n"
        "with. Greenroom's distributions contain none of them.\n\n"
        "| distribution | version | licence | accepted, as |\n|---|---|---|---|\n"
    )
    return head + "\n".join([*rows, ""])


def read_rules() -> dict[str, Any]:
    return tomllib.loads(RULES.read_text())


def _stated(component: dict[str, Any], names: dict[str, str]) -> str:
    """All licences of a component as one expression; a list of several says that all of them count."""
    stated: list[str] = []
    each: dict[str, Any]
    for each in component.get("licenses", []):
        text: str = each.get("expression") or each["license"].get("id") or each["license"]["name"]
        text = names.get(text, text)
        if text not in stated:
            stated.append(text)
    return stated[0] if len(stated) == 1 else " AND ".join(f"({each})" if " " in each else each for each in stated)


def _is_permissive(licence: str, permissive: list[str], spdx: Any) -> bool:
    try:
        expression = spdx.parse(licence, validate=True)
    except ExpressionError:
        return False
    if expression is None:
        return False
    choices = {
        symbol: spdx.TRUE if symbol.key in permissive else spdx.FALSE for symbol in spdx.license_symbols(expression)
    }
    return bool(expression.subs(choices).simplify() == spdx.TRUE)
