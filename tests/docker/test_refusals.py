"""The engine's errors for a Docker that does not answer, refuses, or breaks off; no Docker is needed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from greenroom.config.containers import CustomContainer
from greenroom.engines import measuring
from greenroom.engines.base import MemoryFrom, SandboxSpec
from greenroom.engines.docker import container
from greenroom.engines.docker import engine as docker
from greenroom.engines.docker.client import Daemon
from greenroom.engines.docker.engine import DockerEngine
from greenroom.errors import EngineUnavailable, InvalidRequest

from .fake import ABILITIES, Answer, FakeDocker


@pytest.fixture
async def engine(fake: FakeDocker) -> AsyncIterator[DockerEngine]:
    engine = DockerEngine(docker_host=fake.url)
    yield engine
    await engine.close()


async def never() -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError


class TestCheck:
    async def test_a_missing_engine_at_the_address_is_reported_with_advice(self, tmp_path: Path) -> None:
        engine = DockerEngine(docker_host=f"unix://{tmp_path}/nothing.sock")
        message = f"The Docker engine at unix://{tmp_path}/nothing.sock cannot be reached. Start Docker, or use"
        with pytest.raises(EngineUnavailable, match=re.escape(message)):
            await engine.check()

    async def test_the_environment_names_the_engine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/from-environment.sock")
        with pytest.raises(EngineUnavailable, match=r"from-environment\.sock"):
            await DockerEngine().check()

    async def test_dockers_current_context_names_the_engine(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("DOCKER_HOST", raising=False)
        monkeypatch.setenv("DOCKER_CONTEXT", "elsewhere")
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(EngineUnavailable, match="context 'elsewhere'"):
            await DockerEngine().check()

    async def test_an_address_without_a_scheme_is_refused(self) -> None:
        with pytest.raises(InvalidRequest, match=r"must begin with unix://.*, not 'localhost:2375'"):
            await DockerEngine(docker_host="localhost:2375").check()

    async def test_a_socket_of_another_group_says_how_to_join_it(
        self, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def denied(*_: Any, **__: Any) -> NoReturn:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(asyncio.get_running_loop(), "create_unix_connection", denied)
        with pytest.raises(EngineUnavailable, match=r"This user is not allowed to use .*usermod -aG docker"):
            await engine.check()

    async def test_a_silent_engine_is_not_waited_for(
        self, fake: FakeDocker, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(docker, "_CHECK_TIMEOUT", 0.1)
        fake.answers["GET /info"] = never
        with pytest.raises(EngineUnavailable, match="did not respond in time"):
            await engine.check()

    @pytest.mark.parametrize("here", [True, False])
    async def test_the_memory_of_containers_is_known_if_the_engine_is_on_this_machine(
        self, fake: FakeDocker, engine: DockerEngine, *, here: bool
    ) -> None:
        memory = measuring.machine_memory() or 0
        fake.answers["GET /info"] = lambda: (200, ABILITIES | {"MemTotal": memory if here else memory + 4096})
        await engine.check()
        assert engine.memory_from is (MemoryFrom.THIS_MACHINE if here else MemoryFrom.ELSEWHERE)

    @pytest.mark.parametrize(
        ("ability", "message"),
        [
            ({"OSType": "windows"}, "windows containers. Switch it to Linux containers"),
            ({"MemoryLimit": False, "PidsLimit": False}, "cannot limit the memory and the processes"),
        ],
    )
    async def test_an_engine_that_cannot_keep_limits_is_refused(
        self, fake: FakeDocker, engine: DockerEngine, ability: dict[str, Any], message: str
    ) -> None:
        fake.answers["GET /info"] = lambda: (200, ABILITIES | ability)
        with pytest.raises(EngineUnavailable, match=message):
            await engine.check()

    @pytest.mark.parametrize(
        ("ability", "message"),
        [
            ({"Architecture": "riscv64"}, "no system call filter for the processor riscv64"),
            ({"SecurityOptions": ["name=apparmor"]}, "built without system call filters"),
        ],
    )
    async def test_an_engine_that_cannot_filter_system_calls_must_be_allowed_by_name(
        self, fake: FakeDocker, engine: DockerEngine, ability: dict[str, Any], message: str
    ) -> None:
        fake.answers["GET /info"] = lambda: (200, ABILITIES | ability)
        with pytest.raises(EngineUnavailable, match=f"{message}.*allow_unfiltered=True"):
            await engine.check()
        allowed = DockerEngine(docker_host=fake.url, allow_unfiltered=True)
        await allowed.check()
        await allowed.close()

    async def test_the_kernel_of_gvisor_filters_whatever_the_hosts_does(self, fake: FakeDocker) -> None:
        without: dict[str, Any] = {"SecurityOptions": []}
        fake.answers["GET /info"] = lambda: (200, ABILITIES | without)
        engine = DockerEngine(docker_host=fake.url, runtime="runsc")
        await engine.check()
        await engine.close()


class TestStart:
    @pytest.mark.parametrize("call", ["POST /containers/create", "POST /containers/start"])
    async def test_a_failure_has_dockers_message_and_leaves_nothing(
        self, fake: FakeDocker, engine: DockerEngine, call: str
    ) -> None:
        fake.answers[call] = lambda: (500, {"message": "no space left on device"})
        with pytest.raises(EngineUnavailable, match="could not start a sandbox: no space left on device"):
            await engine.start(SandboxSpec())
        assert fake.calls[-1] == "DELETE /containers"

    async def test_cancelling_waits_for_a_container_that_is_being_made_and_removes_it(
        self, fake: FakeDocker, engine: DockerEngine
    ) -> None:
        asked, made = asyncio.Event(), asyncio.Event()

        async def late() -> Answer:
            asked.set()
            await made.wait()
            return 201, {"Id": "0123"}

        fake.answers["POST /containers/create"] = late
        start = asyncio.create_task(engine.start(SandboxSpec()))
        await asked.wait()
        start.cancel()
        await asyncio.sleep(0.05)
        assert "DELETE /containers" not in fake.calls
        made.set()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert fake.calls[-1] == "DELETE /containers"
        assert "POST /containers/start" not in fake.calls

    async def test_a_silent_engine_is_not_waited_for(
        self, fake: FakeDocker, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(docker, "_START_TIMEOUT", 0.1)
        fake.answers["POST /containers/start"] = never
        with pytest.raises(EngineUnavailable, match="did not respond in time"):
            await engine.start(SandboxSpec())
        assert fake.calls[-1] == "DELETE /containers"

    async def test_hundreds_of_sandboxes_are_attached_at_the_same_time(
        self, fake: FakeDocker, engine: DockerEngine
    ) -> None:
        async with asyncio.timeout(30):
            sandboxes = await asyncio.gather(*(engine.start(SandboxSpec()) for _ in range(300)))
        assert len(fake.attached) == 300
        await asyncio.gather(*(sandbox.kill() for sandbox in sandboxes))


class TestAttached:
    async def test_a_connection_that_breaks_is_the_end_of_the_bytes(
        self, fake: FakeDocker, engine: DockerEngine
    ) -> None:
        sandbox = await engine.start(SandboxSpec())
        _, writer = fake.attached[0]
        writer.write(b"\x01\0\0\0\0\0\0\x05hello\x01\0\0\0\0\0\0\x09half of ")
        writer.close()
        assert await sandbox.receive() == b"hello"
        assert await sandbox.receive() == b""
        assert await sandbox.receive() == b""
        with pytest.raises(ConnectionResetError):
            await sandbox.send(b"anybody there?")
        await sandbox.kill()

    async def test_pieces_without_bytes_are_not_the_end(self, fake: FakeDocker, engine: DockerEngine) -> None:
        sandbox = await engine.start(SandboxSpec())
        fake.attached[0][1].write(b"\x01\0\0\0\0\0\0\0" + b"\x02\0\0\0\0\0\0\x03why" + b"\x01\0\0\0\0\0\0\x04more")
        assert await sandbox.receive() == b"more"
        await sandbox.kill()

    async def test_a_kill_is_bounded_when_docker_does_not_answer(
        self, fake: FakeDocker, engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(container, "_KILL_TIMEOUT", 0.1)
        sandbox = await engine.start(SandboxSpec())
        fake.answers["DELETE /containers"] = never
        await sandbox.kill()
        reader, _ = fake.attached[0]
        assert await reader.read() == b""  # the connection is closed, which ends the container

    async def test_the_client_is_reachable_again_after_a_failed_check(
        self, fake: FakeDocker, engine: DockerEngine
    ) -> None:
        fake.answers["GET /info"] = lambda: (500, {"message": "starting"})
        with pytest.raises(EngineUnavailable, match="starting"):
            await engine.check()
        fake.answers["GET /info"] = lambda: (200, ABILITIES)
        await engine.check()


async def test_one_client_holds_any_number_of_connections(fake: FakeDocker) -> None:
    daemon = Daemon(fake.url)
    assert daemon.client.connector.limit == 0
    await daemon.close()


class TestCustomContainers:
    @pytest.fixture(autouse=True)
    def _able(self, fake: FakeDocker) -> None:
        fake.answers["GET /info"] = lambda: (200, {**ABILITIES, "DefaultRuntime": "runc"})

    @pytest.mark.parametrize("user", ["30000", "34095", "30001:100", "100:30001", "030000"])
    async def test_an_image_with_a_user_of_the_relays_is_refused(
        self, fake: FakeDocker, engine: DockerEngine, user: str
    ) -> None:
        fake.answers["GET /images/json"] = lambda: (200, {"Config": {"User": user}})
        with pytest.raises(InvalidRequest, match=f"'model' must not have the user '{user}': the users 30000 to 34095"):
            await engine.check_container(CustomContainer(image="model"))  # pyright: ignore[reportCallIssue]

    @pytest.mark.parametrize("user", ["", "0", "app", "29999", "34096:34096", "²"])
    async def test_an_image_with_another_user_is_not(self, fake: FakeDocker, engine: DockerEngine, user: str) -> None:
        fake.answers["GET /images/json"] = lambda: (200, {"Config": {"User": user}})
        await engine.check_container(CustomContainer(image="model"))  # pyright: ignore[reportCallIssue]
