"""Node packages of bubblewrap's sandboxes, from a registry on the loopback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.packages.index import Index, node_lock, node_package
from tests.packages.test_python import environments, leftovers

import greenroom
from greenroom import InvalidRequest, SessionPool
from greenroom.testing import engine_pool

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cache")]

WORDS = {"index.js": "module.exports = require('./word').word\n", "word.js": "exports.word = 'hello'\n"}


@pytest.fixture(scope="module", autouse=True)
def _node() -> None:
    engine_pool("bubblewrap:", container_type="NodeLTS", ready_session_instances=0).close()


@pytest.fixture
def lock(index: Index, tmp_path: Path) -> Callable[..., Path]:
    """Writes a lock of packages that it adds to the registry."""

    def write(*files: tuple[str, bytes], **about: Any) -> Path:
        packages = {name.removesuffix("-1.0.0.tgz"): index.add((name, content)) for name, content in files}
        file = tmp_path / "package-lock.json"
        file.write_text(node_lock(index.url, packages, **about))
        return file

    return write


def pool_with(file: Path) -> SessionPool:
    return greenroom.connect("bubblewrap:", container_type="NodeLTS", packages=str(file), ready_session_instances=0)


def test_packages_are_available_to_require_import_and_scripts(lock: Callable[..., Path], cache: Path) -> None:
    named = node_package("named", {"index.js": "export const name = 'world'\n"}, type="module")
    greeting = node_package(
        "greeting",
        {"index.js": "exports.greet = () => require('words')\n", "cli.js": "#!/usr/bin/env node\nconsole.log('hi')\n"},
        bin={"greeting": "cli.js"},
    )
    file = lock(node_package("words", WORDS), named, greeting, greeting={"bin": {"greeting": "cli.js"}})
    with pool_with(file) as pool:
        session = pool.session("a-session")
        code = "import { name } from 'named'\nconst { greet } = require('greeting');\n`${greet()}, ${name}`"
        assert session.execute(code).result == "'hello, world'"
        assert session.shell("node -e \"console.log(require('words'))\" && greeting").stdout == "hello\nhi\n"
        failed = session.execute("require('fs').writeFileSync('/node_modules/words/word.js', '')")
        assert failed.error is not None
        assert "EROFS" in failed.error.value
    made = environments(cache)
    with pool_with(file) as pool:
        assert pool.session("a-session").execute("require('words')").result == "'hello'"
    assert environments(cache) == made
    assert len(made) == 1


def test_an_install_script_is_refused_by_name_and_does_not_run(
    lock: Callable[..., Path], tmp_path: Path, cache: Path
) -> None:
    scripts = {"postinstall": f"touch {tmp_path}/ran"}
    native = node_package("native", WORDS, scripts=scripts)
    for about in ({"native": {"hasInstallScript": True}}, {}):  # whether the lock tells it or not
        with pytest.raises(InvalidRequest, match="The package 'native' has an install script"):
            pool_with(lock(native, **about))
    with pytest.raises(InvalidRequest, match="The package 'gypped' has an install script"):
        pool_with(lock(node_package("gypped", {"index.js": "", "binding.gyp": "{}"})))
    assert not (tmp_path / "ran").exists()
    assert environments(cache) == leftovers(cache) == []


def test_a_file_that_does_not_match_its_hash_is_refused(lock: Callable[..., Path], index: Index, cache: Path) -> None:
    file = lock(node_package("words", WORDS))
    index.add(node_package("words", {"index.js": "module.exports = 'changed'\n"}))
    with pytest.raises(InvalidRequest, match="does not match its hash in the lock"):
        pool_with(file)
    assert environments(cache) == leftovers(cache) == []


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"integrity": None}, "The package 'words' in the lock must have a hash"),
        ({"resolved": "git+ssh://git@x.example/a.git#1"}, "The package 'words' in the lock must come from a registry"),
        ({"resolved": "file:../words"}, "The package 'words' in the lock must come from a registry"),
        ({"link": True}, "The package 'words' in the lock must come from a registry, not from a directory"),
    ],
)
def test_a_lock_with_weaker_guarantees_is_refused(
    lock: Callable[..., Path], index: Index, about: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        pool_with(lock(node_package("words", WORDS), words=about))
    assert index.requested == []


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"lockfileVersion": 1, "dependencies": {}})])
def test_a_file_that_is_not_a_lock_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "package-lock.json").write_text(content)
    with pytest.raises(InvalidRequest, match=r"The lock .*must (?:be JSON|have packages in the format of npm 7)"):
        pool_with(tmp_path / "package-lock.json")


def test_python_packages_are_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"must be the path of a package-lock\.json for the"):
        greenroom.connect("bubblewrap:", container_type="NodeLTS", packages="polars")


def test_a_missing_package_says_how_to_add_it() -> None:
    with greenroom.connect("bubblewrap:", container_type="NodeLTS", ready_session_instances=0) as pool:
        text = pool.session("a-session").execute("require('lodash')").text_for_model()
    assert 'The application can add packages: packages="package-lock.json" when opening the pool.' in text
