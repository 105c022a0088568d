"""The distributions are built the same twice, hold what they must and nothing else, and are signed."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from releasing import changes, contents, parts, readiness, source, sums
from releasing.__main__ import build_twice
from releasing.distributions import FOLDERS, ROOT, sdist_of, version, wheel_of

EPOCH = 1_700_000_000
MAJOR, MINOR = Version(version()).release[:2]
BOUNDS = f"<{MAJOR}.{MINOR + 1},>={MAJOR}.{MINOR}"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("distributions")
    build_twice(target, tmp_path_factory.mktemp("builds"), source.PLACEHOLDER, EPOCH)
    return target


def test_two_builds_are_identical_and_correct(distributions: Path) -> None:
    assert contents.faults(distributions) == []
    assert len(list(distributions.iterdir())) == 2 * len(FOLDERS)
    assert "greenroom/image/python/Dockerfile" in zipfile.ZipFile(wheel_of(distributions, "core")).namelist()


def test_builds_that_differ_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported, times = source.export, iter(["the first", "the second"])

    def with_the_time(target: Path, address: str) -> Path:
        exported(target, address)
        (target / "core/src/greenroom/built.py").write_text(f"TIME = {next(times)!r}\n")
        return target

    monkeypatch.setattr(source, "export", with_the_time)
    with pytest.raises(ValueError, match=r"Both builds must be the same, but greenroom-.*\.whl"):
        build_twice(tmp_path / "target", tmp_path, source.PLACEHOLDER, EPOCH)


def _adding(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda files: files.update({name: b""})


def _without(ending: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        for name in [name for name in files if name.endswith(ending)]:
            del files[name]

    return change


def _with_metadata(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        (name,) = [name for name in files if name.endswith(".dist-info/METADATA")]
        assert old.encode() in files[name]
        files[name] = files[name].replace(old.encode(), new.encode(), 1)

    return change


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            _adding("langchain_greenroom/tests/test_tool.py"),
            "langchain_greenroom/tests/test_tool.py must not be in it.",
        ),
        (_adding("langchain_greenroom/.env"), "langchain_greenroom/.env must not be in it."),
        (_without("/py.typed"), "py.typed is missing."),
        (_without("licenses/LICENSE"), "its licence is missing."),
        (_with_metadata(f"Version: {version()}", "Version: 7.0"), f"it must be langchain-greenroom {version()}, not"),
        (_with_metadata(BOUNDS, ">=0.0.1"), f"it must not allow greenroom {MAJOR}.{MINOR + 1}"),
        (_with_metadata(BOUNDS, f"<{MAJOR}.{MINOR}"), f"it must allow greenroom {version()}"),
        (_with_metadata("License-Expression: MIT", "License-Expression: ISC"), "its licence must be MIT, not ISC."),
        (_with_metadata("License-Expression: MIT", "License-Expression: Mine"), "its metadata are not valid:"),
        (_with_metadata("](https://", "](../"), "its README links to ../"),
        (_with_metadata("text/markdown", "text/plain"), "its README must be Markdown, not text/plain."),
    ],
)
def test_a_fault_in_a_wheel_is_found(
    change: Callable[[dict[str, bytes]], None], fault: str, distributions: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "distributions"
    shutil.copytree(distributions, folder)
    wheel = wheel_of(folder, "langchain")
    with zipfile.ZipFile(wheel) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    found = contents.faults(folder)
    assert any(each.startswith(f"{wheel.name}: {fault}") for each in found), found


def test_a_source_distribution_of_another_build_is_found(distributions: Path, tmp_path: Path) -> None:
    folder = tmp_path / "distributions"
    shutil.copytree(distributions, folder)
    source.export(tmp_path / "packages", "https://example.invalid/elsewhere")
    name = sdist_of(folder, "core").name
    again = tmp_path / "again"
    build_twice(again, tmp_path, "https://example.invalid/elsewhere", EPOCH)
    shutil.copy(again / name, folder / name)
    assert contents.faults(folder) == [f"{name}: its metadata must be those of the wheel."]


def test_every_dependency_is_listed_and_its_licence_is_permissive_or_excepted(
    distributions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")  # what the lock's installation has put into uv's cache is enough
    listed = json.loads(parts.write_parts(tmp_path / "parts.json", distributions, tmp_path, EPOCH).read_text())
    found, faults = parts.licences(listed, parts.read_rules())
    assert faults == []
    assert {"pydantic", "ipython", "aiodocker", "langchain", "semantic-kernel"} <= {part.name for part in found}
    depended = {each["ref"]: each.get("dependsOn", []) for each in listed["dependencies"]}
    assert any(name.startswith("pydantic==") for name in depended[f"greenroom=={version()}"])
    assert "file:" not in json.dumps(listed)


def _listed(**licence: Any) -> dict[str, Any]:
    return {"components": [{"name": "some", "version": "1", "licenses": [licence] if licence else []}]}


RULES: dict[str, Any] = {"permissive": ["MIT", "ISC"], "names": {"Expat": "MIT"}, "read": {}, "exceptions": {}}
MPL = {"some": {"licence": "MPL-2.0", "reason": "Its own files alone."}}


@pytest.mark.parametrize(
    ("listed", "rules", "faults"),
    [
        (_listed(license={"id": "MIT"}), {}, []),
        (_listed(license={"name": "Expat"}), {}, []),
        (_listed(expression="MIT AND ISC"), {}, []),
        (_listed(expression="GPL-3.0-only OR MIT"), {}, []),
        (_listed(), {"read": {"some": "ISC"}}, []),
        (_listed(license={"id": "MPL-2.0"}), {"exceptions": MPL}, []),
        (_listed(license={"id": "MPL-2.0"}), {}, ["The licence of some must be permissive, not MPL-2.0."]),
        (_listed(expression="MIT AND GPL-3.0-only"), {}, ["The licence of some must be permissive, not MIT AND"]),
        (_listed(license={"name": "Ask us"}), {}, ["The licence of some must be permissive, not Ask us."]),
        (_listed(), {}, ["The licence of some must be permissive, not unknown."]),
        (_listed(license={"id": "GPL-3.0-only"}), {"exceptions": MPL}, ["The exception for some must be for GPL-3.0"]),
        (
            {"components": []},
            {"exceptions": MPL},
            ["The exception for some must go: no distribution needs it."],
        ),
    ],
)
def test_a_licence_that_is_not_permissive_needs_its_own_exception(
    listed: dict[str, Any], rules: dict[str, Any], faults: list[str]
) -> None:
    _, found = parts.licences(listed, {**RULES, **rules})
    assert len(found) == len(faults)
    assert all(each.startswith(fault) for each, fault in zip(found, faults, strict=True)), found


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A key that has signed nothing else."""
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


def _signers(folder: Path, key: Path) -> Path:
    signers = folder / "allowed_signers"
    public = key.with_suffix(".pub").read_text()
    signers.write_text(f'releases@example.invalid namespaces="{sums.NAMESPACE}" {public}')
    return signers


def test_checksums_are_verified_as_the_page_says(key: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    (release / "greenroom-0.1.0.tar.gz").write_bytes(b"what was built")
    shutil.copy(_signers(tmp_path, key), release)
    sums.sign(sums.write_sums(release), key, release / "allowed_signers")
    page = (ROOT / "docs/releasing.md").read_text()
    (commands,) = [block for block in page.split("```")[1::2] if "ssh-keygen -Y verify" in block]
    command = commands.replace("SIGNER", "releases@example.invalid")

    def verified() -> bool:
        return subprocess.run(["bash", "-ec", command], cwd=release, check=False, capture_output=True).returncode == 0

    assert verified()
    (release / "greenroom-0.1.0.tar.gz").write_bytes(b"something else")
    assert not verified()
    sums.write_sums(release)  # by someone who has no key
    assert not verified()


def test_a_key_that_is_not_allowed_signs_nothing(key: Path, tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    written = sums.write_sums(release)
    with pytest.raises(ValueError, match="The key must be in allowed_signers"):
        sums.sign(written, key, sums.SIGNERS)
    with pytest.raises(ValueError, match="must be an SSH key that can sign"):
        sums.sign(written, tmp_path / "none", _signers(tmp_path, key))
    assert [path.name for path in release.iterdir()] == [sums.NAME]


def test_a_key_is_checked_before_anything_is_built(key: Path, tmp_path: Path) -> None:
    signers = _signers(tmp_path, key)
    for file in (key, key.with_suffix(".pub")):
        assert readiness.fault_of_key(file, signers) is None
        assert "The key must be in allowed_signers" in str(readiness.fault_of_key(file))
    assert "must be the path of an SSH key" in str(readiness.fault_of_key(tmp_path / "none", signers))
    assert "must be the path of an SSH key" in str(readiness.fault_of_key(signers.parent, signers))


def _step(*arguments: str | Path, **variables: str) -> tuple[int, list[str]]:
    """Run a step of a release; return its exit code and what it wrote on standard error."""
    command = [sys.executable, "-m", "releasing", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=variables, check=False, capture_output=True, text=True)
    return ended.returncode, ended.stderr.splitlines()


def test_everything_that_a_release_lacks_is_reported_together(tmp_path: Path) -> None:
    key = tmp_path / "key"
    code, lines = _step("check", PATH=str(tmp_path), GREENROOM_SIGNING_KEY=str(key))
    assert code == 1
    assert "Traceback" not in "".join(lines)
    for program, package in readiness.PROGRAMS.items():
        assert any(f"The program {program} must be installed: apt-get install {package}." in line for line in lines)
    if source.repository() is None:
        assert "To sign, pyproject.toml must have project.urls.Repository." in lines


def test_a_user_other_than_root_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert any(fault.startswith("make release must run as root") for fault in readiness.missing())


def test_a_failed_step_states_the_reason_without_a_traceback(tmp_path: Path) -> None:
    assert _step("sign", tmp_path / "none") == (1, [f"release: {tmp_path / 'none'}: No such file or directory"])
    code, lines = _step("check", PATH=os.environ["PATH"], GIT_DIR=str(tmp_path))
    assert (code, lines[0]) == (1, "release: This command failed with exit code 128: git status --porcelain")
    assert "not a git repository" in lines[1]
    failed = subprocess.CalledProcessError(2, ["uv", "pip", Path("/a b")], stderr="No such package.\n")
    assert readiness.failure(failed) == "This command failed with exit code 2: uv pip '/a b'\nNo such package."


def test_the_changelog_has_an_entry_for_this_version() -> None:
    text, _ = changes.entry(changes.CHANGELOG.read_text(), version())
    assert text


@pytest.mark.parametrize(
    ("changelog", "error"),
    [
        ("# Changes\n", "must have an entry"),
        ("# Changes\n\n## Unreleased\n\n## 0.1.0, 2026-01-01\n\n- One.\n", "must not be empty"),
        ("# Changes\n\n## 0.0.9, 2026-01-01\n\n- One.\n", "must be '## Unreleased' or '## 0.1.0, YYYY-MM-DD'"),
        ("# Changes\n\n## 0.1.0, soon\n\n- One.\n", "must be '## Unreleased' or '## 0.1.0, YYYY-MM-DD'"),
    ],
)
def test_a_changelog_that_does_not_fit_is_refused(changelog: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        changes.entry(changelog, "0.1.0")


def test_a_release_sets_the_version_everywhere(tmp_path: Path) -> None:
    for name in ["CHANGELOG.md", "pyproject.toml", "docs/versioning.md", "packages/core/src/greenroom/__init__.py"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for folder in FOLDERS:
        (tmp_path / "packages" / folder).mkdir(exist_ok=True)
        shutil.copy(ROOT / "packages" / folder / "pyproject.toml", tmp_path / "packages" / folder)
    (tmp_path / "CHANGELOG.md").write_text("# Changes\n\n## Unreleased\n\n- One.\n\n## 0.2.0, 2026-01-01\n\n- None.\n")
    changes.set_version("0.3.0", datetime.date(2026, 12, 24), tmp_path)
    assert changes.entry((tmp_path / "CHANGELOG.md").read_text(), "0.3.0") == ("- One.", True)
    assert '\n__version__ = "0.3.0"\n' in (tmp_path / "packages/core/src/greenroom/__init__.py").read_text()
    for folder in FOLDERS:
        text = (tmp_path / "packages" / folder / "pyproject.toml").read_text()
        assert '\nversion = "0.3.0"\n' in text
        assert folder == "core" or '"greenroom[tools]>=0.3,<0.4"' in text
    assert "`greenroom>=0.3,<0.4`" in (tmp_path / "docs/versioning.md").read_text()
    for wrong in ("0.3.0", "0.2.0", "next"):
        with pytest.raises(ValueError, match="VERSION must be"):
            changes.set_version(wrong, datetime.date(2026, 12, 24), tmp_path)
