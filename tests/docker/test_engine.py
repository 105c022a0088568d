"""The engine's two streams, its ends, and what it leaves behind, on a real Docker."""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiodocker
import pytest

from greenroom.engines import owner
from greenroom.engines.base import Limits, SandboxSpec, StreamSandbox, sandbox_environment
from greenroom.engines.docker.engine import DockerEngine
from greenroom.engines.docker.image import default_image
from greenroom.errors import EngineUnavailable, ImageMissing, InvalidRequest

from .conftest import Program, containers_of, usable

ECHO = "import os\nwhile data := os.read(0, 65536):\n    while data:\n        data = data[os.write(1, data):]"
MIB = 1 << 20


@pytest.fixture
async def echo(engine: DockerEngine, supervisor: Program) -> AsyncIterator[StreamSandbox]:
    """A sandbox that echoes its input."""
    supervisor(ECHO)
    sandbox = await engine.start(SandboxSpec())
    yield sandbox
    await sandbox.kill()


async def read(sandbox: StreamSandbox, size: int) -> bytes:
    data = bytearray()
    while len(data) < size and (piece := await sandbox.receive()):
        data += piece
    return bytes(data)


async def read_all(sandbox: StreamSandbox) -> bytes:
    return await read(sandbox, sys.maxsize)


class TestStreams:
    async def test_every_byte_passes_unchanged(self, echo: StreamSandbox) -> None:
        every_byte = bytes(range(256)) * 4
        await echo.send(every_byte)
        assert await read(echo, len(every_byte)) == every_byte

    async def test_megabytes_pass_in_both_directions_at_the_same_time(self, echo: StreamSandbox) -> None:
        data = random.Random(0).randbytes(8 * MIB)
        answer, _ = await asyncio.gather(read(echo, len(data)), echo.send(data))
        assert answer == data

    async def test_the_first_bytes_are_not_missed(self, engine: DockerEngine, supervisor: Program) -> None:
        supervisor("import os\nos.write(1, b'first')")
        sandbox = await engine.start(SandboxSpec())
        assert await read_all(sandbox) == b"first"
        await sandbox.kill()

    async def test_sending_waits_for_a_sandbox_that_does_not_read(
        self, plain_engine: DockerEngine, supervisor: Program
    ) -> None:
        supervisor("import time\ntime.sleep(600)")
        sandbox = await plain_engine.start(SandboxSpec())
        send = asyncio.create_task(sandbox.send(bytes(64 * MIB)))
        await asyncio.sleep(1)
        assert not send.done()
        await sandbox.kill()
        with pytest.raises(ConnectionError):
            await send

    async def test_a_cancelled_send_does_not_cancel_the_next(
        self, plain_engine: DockerEngine, supervisor: Program
    ) -> None:
        supervisor(f"import time\ntime.sleep(1)\n{ECHO}")
        sandbox = await plain_engine.start(SandboxSpec())
        first = asyncio.create_task(sandbox.send(bytes(4 * MIB)))
        await asyncio.sleep(0.2)
        second = asyncio.create_task(sandbox.send(b"end"))
        first.cancel()
        answer = await read(sandbox, 4 * MIB + 3)
        await second
        assert answer.endswith(b"end")
        await sandbox.kill()

    async def test_its_end_ends_the_stream_for_good(self, engine: DockerEngine, supervisor: Program) -> None:
        supervisor("print('bye')")
        sandbox = await engine.start(SandboxSpec())
        assert await read_all(sandbox) == b"bye\n"
        assert await sandbox.receive() == b""
        with pytest.raises(ConnectionResetError):
            await sandbox.send(b"anybody there?")
        await sandbox.kill()

    async def test_a_kill_ends_a_wait_for_bytes(self, echo: StreamSandbox) -> None:
        receive = asyncio.create_task(echo.receive())
        await asyncio.sleep(0.05)
        await echo.kill()
        assert await receive == b""


class TestEnds:
    async def test_a_killed_sandbox_is_gone_when_kill_returns(self, echo: StreamSandbox) -> None:
        await echo.kill()
        assert await containers_of() == []
        await echo.kill()

    async def test_concurrent_and_cancelled_kills_are_one(self, echo: StreamSandbox) -> None:
        cancelled = asyncio.create_task(echo.kill())
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(echo.kill(), echo.kill())
        assert await containers_of() == []

    async def test_standard_error_is_the_diagnosis(self, engine: DockerEngine, supervisor: Program) -> None:
        supervisor("import sys\nsys.exit('there is no IPython here')")
        sandbox = await engine.start(SandboxSpec())
        assert await read_all(sandbox) == b""
        assert await sandbox.diagnosis() == "there is no IPython here"
        await sandbox.kill()

    async def test_a_silent_end_is_reported_by_its_exit_code(self, engine: DockerEngine, supervisor: Program) -> None:
        supervisor("import os\nos._exit(7)")
        sandbox = await engine.start(SandboxSpec())
        assert await read_all(sandbox) == b""
        assert await sandbox.diagnosis() == "it exited with code 7"
        await sandbox.kill()

    async def test_running_out_of_memory_is_reported(self, engine: DockerEngine, supervisor: Program) -> None:
        supervisor("x = b'x' * (1 << 30)")
        sandbox = await engine.start(SandboxSpec(limits=Limits(memory=128 * MIB)))
        assert await read_all(sandbox) == b""
        assert "memory" in await sandbox.diagnosis()
        await sandbox.kill()

    async def test_long_standard_error_keeps_its_end(self, plain_engine: DockerEngine, supervisor: Program) -> None:
        supervisor("import sys\nsys.stderr.write('x' * (1 << 22) + 'the end')")
        sandbox = await plain_engine.start(SandboxSpec())
        assert await read_all(sandbox) == b""
        diagnosis = await sandbox.diagnosis()
        assert diagnosis.endswith("the end")
        assert len(diagnosis) <= 8192
        await sandbox.kill()


class TestConfiguration:
    """The settings that Docker got; the conformance suites test their effect from inside."""

    @pytest.fixture
    async def config(self, plain_engine: DockerEngine, supervisor: Program) -> AsyncIterator[dict[str, Any]]:
        supervisor(ECHO)
        limits = Limits(memory=256 * MIB, cpus=0.5, pids=99, disk=64 * MIB)
        sandbox = await plain_engine.start(SandboxSpec(limits=limits))
        async with aiodocker.Docker() as client:
            yield await (await client.containers.get(sandbox.id)).show()
        await sandbox.kill()

    async def test_everything_that_is_not_needed_is_denied(self, config: dict[str, Any]) -> None:
        host = config["HostConfig"]
        user, _, group = config["Config"]["User"].partition(":")
        assert 30_000 <= int(user) < 34_096
        assert group == user
        assert host["NetworkMode"] == "none"
        assert host["ReadonlyRootfs"] is True
        assert host["Privileged"] is False
        assert host["CapDrop"] == ["ALL"]
        assert not host["CapAdd"]
        assert host["SecurityOpt"] == ["no-new-privileges"]  # and so Docker's own filter of system calls
        assert not host["Binds"]
        assert not host["Devices"]
        assert [mount["Type"] for mount in config["Mounts"]] == []

    async def test_every_resource_is_bounded(self, config: dict[str, Any]) -> None:
        host = config["HostConfig"]
        assert host["Memory"] == host["MemorySwap"] == 256 * MIB
        assert host["NanoCpus"] == 500_000_000
        assert host["PidsLimit"] == 99
        assert set(host["Tmpfs"]) == {"/mnt/data", "/tmp"}
        for options in host["Tmpfs"].values():
            assert {f"size={64 * MIB}", "nosuid", "nodev"} <= set(options.split(","))
        assert host["ShmSize"] == 64 * MIB
        assert {limit["Name"]: limit["Hard"] for limit in host["Ulimits"]} == {"core": 0, "nofile": 4096}

    async def test_printing_does_not_fill_the_disk(self, config: dict[str, Any]) -> None:
        assert config["HostConfig"]["LogConfig"]["Type"] == "none"

    async def test_docker_removes_a_container_when_its_input_ends(self, config: dict[str, Any]) -> None:
        assert config["Config"]["StdinOnce"] is True
        assert config["HostConfig"]["AutoRemove"] is True
        assert config["HostConfig"]["RestartPolicy"]["Name"] in {"", "no"}

    async def test_nothing_of_the_host_is_in_its_environment(self, config: dict[str, Any]) -> None:
        names = {variable.partition("=")[0] for variable in config["Config"]["Env"]}
        assert names <= {*sandbox_environment(SandboxSpec()), "GPG_KEY", "PYTHON_VERSION", "PYTHON_SHA256"}


class TestChangesWhileItRuns:
    async def test_its_limit_on_memory_can_be_changed(self, plain_engine: DockerEngine, supervisor: Program) -> None:
        supervisor(ECHO)
        sandbox = await plain_engine.start(SandboxSpec(limits=Limits(memory=256 * MIB)))
        await sandbox.limit_memory(512 * MIB)
        async with aiodocker.Docker() as client:
            config = await (await client.containers.get(sandbox.id)).show()
        assert config["HostConfig"]["Memory"] == config["HostConfig"]["MemorySwap"] == 512 * MIB
        with pytest.raises(InvalidRequest, match="cannot be set to 1 bytes"):
            await sandbox.limit_memory(1)
        await sandbox.kill()

    async def test_its_share_of_the_processors_is_small_until_its_first_use(
        self, plain_engine: DockerEngine, supervisor: Program
    ) -> None:
        async def shares() -> int:
            async with aiodocker.Docker() as client:
                config = await (await client.containers.get(sandbox.id)).show()
            return config["HostConfig"]["CpuShares"]

        supervisor(ECHO)
        sandbox = await plain_engine.start(SandboxSpec())
        starting = await shares()
        await sandbox.take_full_share()
        assert (starting, await shares()) == (64, 1024)
        await sandbox.kill()

    async def test_a_runtime_that_cannot_change_the_limit_on_memory_says_so(self, supervisor: Program) -> None:
        engine = await usable(DockerEngine(runtime="runsc"))
        supervisor(ECHO)
        sandbox = await engine.start(SandboxSpec())
        with pytest.raises(InvalidRequest, match="memory limit cannot be set to"):
            await sandbox.limit_memory(512 * MIB)
        await sandbox.kill()
        await engine.close()


class TestNothingIsLeft:
    @pytest.mark.parametrize("attempt", range(12))
    async def test_a_cancelled_start_leaves_no_container(
        self, plain_engine: DockerEngine, supervisor: Program, attempt: int
    ) -> None:
        supervisor(ECHO)
        start = asyncio.create_task(plain_engine.start(SandboxSpec()))
        await asyncio.sleep(attempt * 0.02 + random.random() * 0.02)
        start.cancel()
        try:
            sandbox = await start
        except asyncio.CancelledError:
            pass
        else:
            await sandbox.kill()
        assert await containers_of() == []

    async def test_a_start_that_is_cancelled_twice_leaves_no_container(
        self, plain_engine: DockerEngine, supervisor: Program
    ) -> None:
        supervisor(ECHO)
        start = asyncio.create_task(plain_engine.start(SandboxSpec()))
        for _ in range(2):
            await asyncio.sleep(0.05)
            start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        await plain_engine.close()  # waits for what is still being undone
        assert await containers_of() == []

    async def test_sandboxes_end_with_their_owner(self, engine: DockerEngine, runtime: str | None) -> None:
        program = f"""
import asyncio
from greenroom.engines.base import SandboxSpec
from greenroom.engines.docker.engine import DockerEngine
async def main():
    engine = DockerEngine(runtime={runtime!r})
    sandboxes = [await engine.start(SandboxSpec()) for _ in range(5)]
    print("started", flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert await process.stdout.readline() == b"started\n"
        assert len(await containers_of(process.pid)) == 5
        process.kill()
        await process.wait()
        deadline = time.monotonic() + 60
        while left := await containers_of(process.pid):
            assert time.monotonic() < deadline, f"{len(left)} containers are left"
            await asyncio.sleep(0.1)

    async def test_a_sweep_removes_what_dead_owners_left_and_nothing_else(self, plain_engine: DockerEngine) -> None:
        program = "import json; from greenroom.engines import owner; print(json.dumps(owner.labels()))"
        dead = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=subprocess.PIPE)
        labels_of_dead: dict[str, str] = json.loads((await dead.communicate())[0])
        owners = {
            "dead": labels_of_dead,
            "alive": owner.labels(),
            "elsewhere": {**labels_of_dead, owner.MACHINE: "another machine"},
        }
        image = default_image()
        async with aiodocker.Docker() as client:
            made = {
                name: await client.containers.create({"Image": image, "Cmd": ["true"], "Labels": labels})
                for name, labels in owners.items()
            }
            try:
                assert await plain_engine.sweep() == 1
                left = {container.id for container in await client.containers.list(all=True)}
                assert {name for name, container in made.items() if container.id in left} == {"alive", "elsewhere"}
            finally:
                for name in ("alive", "elsewhere"):
                    await made[name].delete(force=True)


class TestRefusals:
    async def test_a_missing_image_is_reported_with_the_command_that_builds_it(
        self, plain_engine: DockerEngine
    ) -> None:
        engine = DockerEngine(image="greenroom-nothing:0")
        for attempt in (engine.check, lambda: engine.start(SandboxSpec())):
            with pytest.raises(ImageMissing, match="greenroom image build --tag greenroom-nothing:0"):
                await attempt()
        await engine.close()

    async def test_an_image_with_another_runner_is_refused(self, plain_engine: DockerEngine) -> None:
        async with aiodocker.Docker() as client:
            config = {"Image": default_image(), "Cmd": ["true"], "Labels": {"greenroom.runner": "of another version"}}
            container = await client.containers.create(config)
            await container.commit(repository="greenroom-test-other", tag="latest")
            await container.delete()
            engine = DockerEngine(image="greenroom-test-other")
            try:
                with pytest.raises(ImageMissing, match=r"not built for this version .*greenroom image build"):
                    await engine.check()
            finally:
                await engine.close()
                await client.images.delete("greenroom-test-other")

    async def test_an_unknown_runtime_is_reported_with_how_to_register_it(self, plain_engine: DockerEngine) -> None:
        engine = DockerEngine(runtime="nothing")
        with pytest.raises(EngineUnavailable, match=r"no runtime 'nothing'; it has .*runc.*daemon\.json"):
            await engine.check()
        await engine.close()

    async def test_limits_that_docker_cannot_keep_are_refused(self, plain_engine: DockerEngine) -> None:
        with pytest.raises(InvalidRequest, match="CPUs"):
            await plain_engine.start(SandboxSpec(limits=Limits(cpus=10_000)))
        assert await containers_of() == []
