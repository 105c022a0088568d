"""The site is built strictly, from every page once, and none of its links leads nowhere."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import subprocess
import threading
import tomllib
from pathlib import Path

import pytest
from website.__main__ import what_is_wrong
from website.assemble import PagesWrong, assemble
from website.links import broken_links, unreachable

from .pages import ROOT

PYTHON = ROOT / ".venv-docs/bin/python"


def build(checkout: Path, work: Path) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-m", "website", "build", "--work", work]
    return subprocess.run(command, check=False, cwd=checkout, capture_output=True, text=True, timeout=240)


@pytest.fixture
def zensical() -> None:
    if not PYTHON.exists():
        reason = "Zensical is not installed: make .venv-docs/.ready"
        if os.environ.get("GREENROOM_REQUIRE_ENGINES"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.mark.slow
@pytest.mark.usefixtures("zensical")
def test_the_site_is_built_without_a_warning_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    ended = build(ROOT, tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    pages = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("*.html")}
    assert {
        "index.html",
        "tutorial.html",
        "security.html",
        "api/pools.html",
        "examples/web_service/index.html",
    } <= pages
    assert 'class="doc doc-object' in (tmp_path / "site/api/pools.html").read_text()


NAVIGATION = '"docs/index.md" = "Start"\n[Why]\n"docs/decisions/*.md" = ""\n'


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small repository with a page, a decision and a document elsewhere."""
    files = {
        "website/nav.toml": NAVIGATION + '"SECURITY.md" = "Security"\n',
        "website/zensical.toml": '[project]\nsite_name = "x"\n',
        "website/style.css": "",
        "docs/index.md": "# Start\n\n[a](../SECURITY.md#limits), [code](../src/a.py), `[b](c)`, [all](../src)\n",
        "docs/decisions/0001-one.md": "# One thing\n\n[back](../index.md)\n",
        "SECURITY.md": "# Security\n\n[start](docs/index.md)\n",
        "src/a.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "checkout"


def test_links_connect_the_pages_of_the_site(checkout: Path, tmp_path: Path) -> None:
    assemble(tmp_path / "work", checkout)
    pages = tmp_path / "work/pages"
    assert (pages / "index.md").read_text() == (
        "# Start\n\n[a](security.md#limits), [code](source/src/a.py), `[b](c)`, all\n"
    )
    assert (pages / "security.md").read_text() == "# Security\n\n[start](index.md)\n"
    assert (pages / "source/src/a.py").is_file()
    settings = tomllib.loads((tmp_path / "work/zensical.toml").read_text())["project"]
    assert settings["nav"] == [
        {"Start": "index.md"},
        {"Why": [{"One thing": "decisions/0001-one.md"}, {"Security": "security.md"}]},
    ]


def test_a_removed_page_is_removed_from_the_site(checkout: Path, tmp_path: Path) -> None:
    assemble(tmp_path / "work", checkout)
    (checkout / "docs/decisions/0001-one.md").unlink()
    assemble(tmp_path / "work", checkout)
    assert not (tmp_path / "work/pages/decisions/0001-one.md").exists()


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("docs/new.md", "# New\n", "docs/new.md is not in website/nav.toml"),
        ("docs/index.md", "# Start\n\n[x](gone.md)\n", "docs/index.md: gone.md does not exist"),
        ("website/nav.toml", NAVIGATION + '"docs/x.md" = ""\n', "docs/x.md is in website/nav.toml and does not exist"),
        ("website/nav.toml", NAVIGATION + '"docs/index.md" = ""\n', "docs/index.md is in website/nav.toml twice"),
    ],
)  # fmt: skip
def test_a_page_that_breaks_a_rule_is_named(checkout: Path, tmp_path: Path, path: str, text: str, reason: str) -> None:
    (checkout / path).write_text(text)
    with pytest.raises(PagesWrong) as refused:
        assemble(tmp_path / "work", checkout)
    assert refused.value.args == (reason,)


def test_the_site_is_shown_while_pages_are_written(checkout: Path, tmp_path: Path) -> None:
    navigation, page = checkout / "website/nav.toml", checkout / "docs/index.md"
    whole, text = navigation.read_text(), page.read_text()
    navigation.write_text('"docs/index.md" = "St')
    assert "Unterminated string" in what_is_wrong(tmp_path / "work", checkout)
    navigation.unlink()
    assert "nav.toml" in what_is_wrong(tmp_path / "work", checkout)
    navigation.write_text(whole)
    page.unlink()
    assert "does not exist" in what_is_wrong(tmp_path / "work", checkout)
    page.write_bytes(b"\xff")
    assert "utf-8" in what_is_wrong(tmp_path / "work", checkout)
    page.write_text(text)
    assert what_is_wrong(tmp_path / "work", checkout) == ""


@pytest.mark.slow
@pytest.mark.usefixtures("zensical")
@pytest.mark.parametrize("wrong", ["[x](index.md#nowhere)", "::: greenroom.Nothing", "[x][greenroom.Nothing]"])
def test_an_invalid_build_fails(wrong: str, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "website", checkout / "website", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "website/nav.toml").write_text('"docs/index.md" = "Start"\n')
    (checkout / "docs").mkdir()
    (checkout / "docs/index.md").write_text(f"# Start\n\n{wrong}\n")
    ended = build(checkout, tmp_path)
    assert ended.returncode != 0, ended.stdout


def test_a_link_to_a_missing_file_or_anchor_is_found(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text(
        '<a href="b.html#there">1</a><a href="b.html#gone">2</a><a href="gone.html">3</a>'
    )
    (tmp_path / "b.html").write_text(
        '<h1 id="there">B</h1><a href="https://example.org">4</a><img src="gone.png">'
        '<script src="https://example.org/x.js"></script>'
    )
    assert broken_links(tmp_path) == [
        "b.html: gone.png",
        "b.html: https://example.org/x.js",
        "index.html: b.html#gone",
        "index.html: gone.html",
    ]


def test_an_address_that_does_not_respond_is_found(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("here")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        place = f"http://127.0.0.1:{server.server_address[1]}"
        found = unreachable([f"{place}/there", f"{place}/gone"])
        server.shutdown()
        thread.join()
    assert found == {f"{place}/gone": "status 404"}
