"""Images with packages of the user's own, built by a real Docker engine from an index on the loopback."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.packages.index import Index, node_lock, node_package, source, wheel

import greenroom
from greenroom import EngineUnavailable, InvalidRequest, Progress
from greenroom.testing import engine_pool

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def base() -> str:
    """The base of this machine's image of sandboxes, to which packages are added."""
    engine_pool("docker:", ready_session_instances=0).close()
    return image_base("python")


def image_base(kind: str) -> str:
    """The base of the image of sandboxes that this machine has."""
    name = f"greenroom-{kind}:{greenroom.__version__}"
    form = '{{index .Config.Labels "greenroom.base"}}'
    found = subprocess.run(["docker", "image", "inspect", "-f", form, name], capture_output=True, text=True, check=True)
    return found.stdout.strip()


@pytest.fixture
def tag() -> Iterator[str]:
    name = f"greenroom-test-with:{uuid.uuid4().hex[:12]}"
    yield name
    if shutil.which("docker"):
        subprocess.run(["docker", "image", "rm", "--force", name], capture_output=True, check=False)


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "greenroom", "image", "build", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_an_image_has_the_packages_of_a_requirements_file(base: str, tag: str, index: Index, tmp_path: Path) -> None:
    index.add(
        wheel("greeting", code="from words import WORD\ndef main(): print(WORD)\n", requires=["words"], command=True)
    )
    index.add(wheel("words", code="WORD = 'hello'\n"))
    name, content = wheel("local", code="import numpy\n", requires=["numpy"])
    (tmp_path / name).write_bytes(content)
    (tmp_path / "inner.txt").write_text("greeting  # of the index\n")
    (tmp_path / "requirements.txt").write_text(f"-r inner.txt\n./{name}\n")
    ended = build("--base", base, "--tag", tag, "--with", str(tmp_path / "requirements.txt"))
    assert ended.returncode == 0, ended
    assert f"Built {tag} from {base} with requirements.txt" in ended.stdout
    with greenroom.connect("docker:", image=tag, preload=(), ready_session_instances=0) as pool:
        execution = pool.session("a-session").execute(
            "import greeting, local\n"
            "greeting.main()\n"
            "!greeting\n"
            "!python -I -c 'import greeting, pandas; greeting.main()'\n"
            "!pip list --disable-pip-version-check 2>/dev/null | grep -c -E '^(greeting|words|local|pandas) '\n"
            "!ls -d /build /with 2>/dev/null; find /opt/with ! -user root | wc -l\n"
        )
        assert execution.stdout.split() == ["hello"] * 3 + ["4", "0"], execution


def test_a_package_that_cannot_be_installed_is_named(base: str, tag: str, index: Index) -> None:
    index.add(source("built"))
    ended = build("--base", base, "--tag", tag, "--with", "built")
    assert ended.returncode == 2
    assert "The package built cannot be found, or has no wheel for the image's Python." in " ".join(
        ended.stderr.split()
    )
    ended = build("--base", base, "--tag", tag, "--with", "built @ git+https://x.example/built")
    assert ended.returncode == 2
    assert "built @ git+https://x.example/built must be a wheel" in " ".join(ended.stderr.split())


def test_a_program_builds_an_image_with_a_lock_of_node_packages(
    base: str, tag: str, index: Index, tmp_path: Path
) -> None:
    engine_pool("docker:", container_type="NodeLTS", ready_session_instances=0).close()
    content = index.add(node_package("words", {"index.js": "module.exports = 'hello'\n"}))
    lock = tmp_path / "package-lock.json"
    lock.write_text(node_lock(index.url, {"words": content}))
    steps: list[Progress] = []
    built = greenroom.build_image(
        packages=lock,
        container_type="NodeLTS",
        base=image_base("node"),
        tag=tag,
        on_progress=steps.append,
    )
    assert built == tag
    assert "Install the packages of --with" in [step.label for step in steps]
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert (steps[-1].task, steps[-1].unit, steps[-1].fraction) == ("build", "steps", 1.0)
    with greenroom.connect("docker:", image=tag, container_type="NodeLTS", ready_session_instances=0) as pool:
        assert pool.session("a-session").execute("require('words')").result == "'hello'"
    script = index.add(node_package("native", {"index.js": ""}, scripts={"install": "true"}))
    lock.write_text(node_lock(index.url, {"native": script}, native={"hasInstallScript": True}))
    with pytest.raises(InvalidRequest, match="The package 'native' has an install script"):
        greenroom.build_image(packages=lock, container_type="NodeLTS", base=image_base("node"), tag=tag)


def test_packages_of_an_image_are_not_an_option_of_its_pool() -> None:
    with pytest.raises(EngineUnavailable, match=r"image build --with 'polars>=1' --tag NAME, then set image=NAME"):
        greenroom.connect("docker:", packages=["polars>=1"])


def test_an_image_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="The container type of an image must be PythonLTS or NodeLTS, not Shell"):
        greenroom.build_image(container_type="Shell")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="must be Python packages, not a lock of Node packages, for its type"):
        greenroom.build_image(packages="package-lock.json")


def test_a_missing_package_says_how_to_add_it() -> None:
    with engine_pool("docker:", preload=(), ready_session_instances=0) as pool:
        text = pool.session("a-session").execute("import words_of_mine").text_for_model()
    assert "The application can add packages: greenroom image build --with requirements.txt." in text
