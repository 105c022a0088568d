"""The font cache in bubblewrap sandboxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenroom.engines.bubblewrap.engine import BubblewrapEngine, font_cache
from greenroom.testing import engine_pool

_LOOK = """
import os
place = "/opt/greenroom/cache/matplotlib"
print(sorted(os.listdir(place)) if os.path.exists(place) else None)
links = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if number > "2"
         if os.path.exists(f"/proc/self/fd/{number}")]
print([link for link in links if "cache" in link or "secret" in link])
try:
    open(f"{place}/new", "w")
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.parametrize("by_descriptor", [True, False])
@pytest.mark.parametrize("made", [True, False])
def test_a_sandbox_sees_the_font_list_and_never_the_target_of_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: bool, by_descriptor: bool
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if not by_descriptor:

        async def knows(_self: BubblewrapEngine, _option: str) -> bool:
            return False

        monkeypatch.setattr(BubblewrapEngine, "_knows", knows)
    real = font_cache.place

    def place(python: str) -> Path:
        target = real(python)
        (tmp_path / "secret").mkdir()
        (tmp_path / "secret" / "key").write_text("of the host")
        target.parent.mkdir(mode=0o700)
        if made:
            target.mkdir(mode=0o755)
            (target / "fontlist-v1.json").write_text("{}")
        else:
            target.symlink_to(tmp_path / "secret")
        return target

    monkeypatch.setattr(font_cache, "place", place)
    with engine_pool("bubblewrap:", preload=(), ready_session_instances=0) as pool, pool.session() as session:
        seen = session.execute(_LOOK).stdout.splitlines()
    assert seen[0] == ("['fontlist-v1.json']" if made else "None")
    assert seen[1] == "[]"
    assert seen[2] in {"OSError", "PermissionError", "FileNotFoundError"}
    assert not (tmp_path / "secret" / "new").exists()
