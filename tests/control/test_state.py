"""The state of a control plane: what survives, and what a file that cannot be used leads to."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.core.plugins import only_engines
from tests.small_disk import mounted

from greenroom.arm.ids import LOCAL_GROUP, LOCAL_SUBSCRIPTION, PoolId
from greenroom.arm.resources import ENGINE_TAG, decode_resource, patched
from greenroom.errors import InvalidRequest
from greenroom.server.control.operations import Operation
from greenroom.server.state.file import StateFile, default_path
from greenroom.server.state.migrations import APPLICATION, MIGRATIONS
from greenroom.server.state.pools import PoolTable

from .conftest import Broken, Lame, plugin
from .plane import control, path_of, resource
from .test_pools import CI

SECRETS = [{"name": "key", "value": "hidden"}, {"name": "other", "value": "hidden-too"}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "state.db"


async def test_pools_come_back_with_everything(path: Path) -> None:
    async with control(path) as server:
        before = await server.done("PUT", CI, {**resource(secrets=SECRETS), "tags": {"a": "b"}, "location": "here"})
        await server.done("PUT", path_of("gone"), resource())
        await server.done("DELETE", path_of("gone"))
        polled = await server.call("DELETE", path_of("never"))
        assert polled.status_code == 204
    async with control(path) as server:
        assert await server.settled(CI) == before
        assert (await server.run("6 * 7", before)).json()["result"]["executionResult"] == 42
        assert [pool.id.name for pool in server.plane.pools(LOCAL_SUBSCRIPTION)] == ["ci", "default"]
        gone = {"properties": {"poolManagementEndpoint": before["properties"]["poolManagementEndpoint"][:-2] + "gone"}}
        assert (await server.run("1", gone)).status_code == 404, "a deleted pool's name is not the default one's"


async def test_secrets_are_only_in_the_state_file(path: Path) -> None:
    async with control(path) as server:
        created = await server.call("PUT", CI, resource(secrets=SECRETS))
        await server.end_of(created)
        named = {"secrets": [{"name": "key"}, {"name": "new", "value": "hidden-3"}]}
        texts = [
            created.text,
            (await server.call("PATCH", CI, {"tags": {"a": "b"}})).text,
            (await server.call("GET", CI)).text,
            (await server.call("GET", path_of())).text,
        ]
        await server.settled(CI)
        changed = await server.done("PATCH", CI, {"properties": named})
        assert changed["properties"]["secrets"] == [{"name": "key"}, {"name": "new"}]
        again = await server.done("PUT", CI, changed)
        assert again["properties"] == changed["properties"], "a resource that was read can be written"
        assert not any("hidden" in text for text in texts)
        assert "hidden" not in repr(server.plane.get(PoolId(LOCAL_SUBSCRIPTION, LOCAL_GROUP, "ci")))
        (pool,) = [each.resource for each in (await PoolTable(server.file).load()).pools]
        kept = {each["name"]: each["value"] for each in pool.properties["secrets"]}
        assert kept == {"key": "hidden", "new": "hidden-3"}
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


async def test_a_pool_that_fails_to_reopen_does_not_stop_the_others(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with control(path) as server:
        await server.done("PUT", CI, {**resource(), "tags": {ENGINE_TAG: "memory:"}})
        await server.done("PUT", path_of("fine"), {**resource(), "tags": {ENGINE_TAG: "lame:"}})
    with monkeypatch.context() as patch:
        only_engines(patch, memory=plugin(Broken), lame=plugin(Lame))
        async with control(path) as server:
            failed = await server.settled(CI)
            assert failed["properties"]["provisioningState"] == "Failed"
            assert "The engine broken is broken" in failed["properties"]["provisioningError"]["message"]
            assert (await server.settled(path_of("fine")))["properties"]["provisioningState"] == "Succeeded"
            assert (await server.run("1", failed)).status_code == 503
            await server.done("PATCH", path_of("fine"), {"tags": {ENGINE_TAG: "lame:", "new": "yes"}})
    async with control(path) as server:
        assert (await server.settled(CI))["properties"]["provisioningState"] == "Succeeded"


async def test_a_pool_opens_as_soon_as_its_engine_works(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of a machine can start after the server."""
    monkeypatch.setattr("greenroom.server.control.plane._RETRY_AFTER", 0.05)
    names = ("ci", "put", "deleted")
    async with control(path) as server:
        for name in names:
            await server.done("PUT", path_of(name), {**resource(), "tags": {ENGINE_TAG: "memory:"}})
    with monkeypatch.context() as patch:
        only_engines(patch, memory=plugin(Broken), lame=plugin(Lame))
        async with control(path) as server:
            for name in names:
                assert (await server.settled(path_of(name)))["properties"]["provisioningState"] == "Failed"
            await server.done("DELETE", path_of("deleted"))
            changed = {**resource(), "tags": {ENGINE_TAG: "lame:"}}
            while True:
                answer = await server.call("PUT", path_of("put"), changed)
                if answer.status_code != 409:  # it is being tried
                    break
                await asyncio.sleep(0.01)
            assert (await server.end_of(answer))["status"] == "Succeeded"
            patch.undo()
            async with asyncio.timeout(60):
                while True:
                    found = await server.settled(CI)
                    if found["properties"]["provisioningState"] != "Failed":
                        break
                    await asyncio.sleep(0.01)
            assert (await server.run("6 * 7", found)).json()["result"]["executionResult"] == 42
            listed = (await server.call("GET", path_of())).json()["value"]
            assert {each["name"]: each["properties"]["provisioningState"] for each in listed} == {
                "ci": "Succeeded",
                "default": "Succeeded",
                "put": "Succeeded",
            }


@pytest.mark.parametrize("works", [True, False])
async def test_an_interrupted_update_is_completed_at_the_next_start(path: Path, *, works: bool) -> None:
    """As a killed server leaves it: accepted, and not carried out."""
    ci = PoolId(LOCAL_SUBSCRIPTION, LOCAL_GROUP, "ci")
    operation = Operation.new(ci)
    async with control(path) as server:
        await server.done("PUT", CI, resource())
        pool = server.plane.get(ci)
        assert pool is not None
        changed = patched(pool.resource, {"tags": {ENGINE_TAG: "memory:" if works else "broken:", "new": "yes"}})
        await PoolTable(server.file).update(ci, changed, {}, operation)
    async with control(path) as server:
        found = await server.settled(CI)
        assert found["properties"]["provisioningState"] == "Succeeded"
        assert found.get("tags", {}).get("new") == ("yes" if works else None)
        ended = server.plane.operations.find(LOCAL_SUBSCRIPTION, operation.id)
        assert ended is not None
        assert ended.status == ("Succeeded" if works else "Failed")
    async with control(path) as server:
        assert (await server.settled(CI)).get("tags") == found.get("tags")


async def test_interrupted_creations_and_deletions_are_completed(path: Path) -> None:
    one, two = (PoolId(LOCAL_SUBSCRIPTION, LOCAL_GROUP, name) for name in ("one", "two"))
    operations = [Operation.new(one), Operation.new(two)]
    file = await StateFile.open(path)
    table = PoolTable(file)
    for pool, operation in zip((one, two), operations, strict=True):
        await table.create(pool, decode_resource(resource(), pool), {}, operation)
    await table.delete(two, operations[1])
    await file.close()
    async with control(path) as server:
        assert (await server.settled(path_of("one")))["properties"]["provisioningState"] == "Succeeded"
        async with asyncio.timeout(30):
            while (await server.call("GET", path_of("two"))).status_code != 404:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        ends = [server.plane.operations.find(LOCAL_SUBSCRIPTION, each.id) for each in operations]
        assert [end.status for end in ends if end is not None] == ["Succeeded", "Succeeded"]


async def test_a_stored_pool_is_not_declared_as_well(path: Path) -> None:
    pool = PoolId(LOCAL_SUBSCRIPTION, LOCAL_GROUP, "Default")
    first = PoolId(LOCAL_SUBSCRIPTION, LOCAL_GROUP, "another")
    file = await StateFile.open(path)
    for each in (first, pool):
        await PoolTable(file).create(each, decode_resource(resource(), each), {}, Operation.new(each))
    await file.close()
    before = asyncio.all_tasks()
    with pytest.raises(InvalidRequest, match="The pool 'Default' must not be declared"):
        async with control(path):
            pass
    assert asyncio.all_tasks() == before, "no pool is being opened"


async def test_a_state_file_belongs_to_one_server(path: Path) -> None:
    async with control(path) as server:
        with pytest.raises(InvalidRequest, match=r"is in use by another server\..* --state"):
            await StateFile.open(path)
        await server.done("PUT", CI, resource())
    file = await StateFile.open(path)
    await file.close()
    await file.close()


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def _damaged(path: Path) -> None:
    with sqlite3.connect(path) as database:
        for statement in MIGRATIONS[0].split(";"):
            database.execute(statement)
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        database.executemany("INSERT INTO deleted VALUES (?, 1)", [("x" * 500 + str(n),) for n in range(100)])
    database.close()
    content = bytearray(path.read_bytes())
    content[4096 * 3 : 4096 * 3 + 2000] = bytes(2000)
    path.write_bytes(content)


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.execute("PRAGMA user_version = 99")
        database.execute("CREATE TABLE future (a)")
    database.close()


def _another(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE photos (a)")
    database.close()


def _link(path: Path) -> None:
    path.symlink_to("/dev/null")


def _directory(path: Path) -> None:
    path.mkdir()


async def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "64k") as disk:
        with pytest.raises(InvalidRequest, match=r"cannot be used: .* is full\. Free space on its disk") as refused:
            await StateFile.open(disk / "state.db")
        assert "--state" in str(refused.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_garbage, "cannot be used: file is not a database"),
        (_damaged, "cannot be used: "),
        (_newer, "is from a newer version of Greenroom (its schema is 99"),
        (_another, "must be a file of greenroom serve, not another database"),
        (_link, "must be a file that this user owns"),
        (_directory, "must be a file that this user owns"),
    ],
)
async def test_a_file_that_is_not_a_state_is_left_alone(path: Path, make: Any, message: str) -> None:
    path.parent.mkdir()
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(InvalidRequest) as refused:
        await StateFile.open(path)
    assert message in str(refused.value)
    assert str(path) in str(refused.value)
    assert (path.read_bytes() if path.is_file() else b"") == before


async def test_a_full_disk_loses_nothing(path: Path) -> None:
    async with control(path) as server:
        before = await server.done("PUT", CI, resource(secrets=SECRETS))
        await server.file.read(lambda database: database.execute("PRAGMA max_page_count = 1").fetchone())
        large = {"tags": {f"tag-{number}": "x" * 200 for number in range(40)}}
        for method, path_, body in (
            ("PUT", path_of("new"), {**resource(), **large}),
            ("PUT", CI, {**resource(), **large}),
            ("PATCH", CI, large),
        ):
            refused = await server.call(method, path_, body)
            assert (refused.status_code, refused.json()["error"]["code"]) == (507, "StateNotWritten")
            assert refused.json()["error"]["message"].endswith("is full. Nothing was changed.")
        assert (await server.call("GET", path_of("new"))).status_code == 404
        assert (await server.call("GET", CI)).json() == before
        assert (await server.run("1", before)).is_success
        await server.file.read(lambda database: database.execute("PRAGMA max_page_count = 1000000").fetchone())
        assert (await server.done("PATCH", CI, large))["tags"] == large["tags"]
    async with control(path) as server:
        assert (await server.settled(CI))["tags"] == large["tags"]


async def test_secrets_of_deleted_and_changed_pools_do_not_stay_in_the_files(path: Path) -> None:
    def kept(text: str) -> bool:
        return any(text.encode() in each.read_bytes() for each in path.parent.iterdir())

    async with control(path) as server:
        await server.done("PUT", CI, resource(secrets=SECRETS))
        await server.done("PUT", path_of("other"), resource(secrets=[{"name": "key", "value": "a-third-one"}]))
        await server.done("PATCH", CI, {"properties": {"secrets": [{"name": "other"}]}})
        assert (kept("hidden-too"), kept('"hidden"')) == (True, False)
        await server.done("DELETE", CI)
        assert (kept("hidden"), kept("a-third-one")) == (False, True)


async def test_a_pool_that_replaces_one_with_an_unwritten_deletion_is_kept(path: Path) -> None:
    ci = PoolId(LOCAL_SUBSCRIPTION, LOCAL_GROUP, "ci")
    async with control(path) as server:
        await server.done("PUT", CI, resource())
        await PoolTable(server.file).delete(ci, Operation.new(ci))
        await server.done("PUT", CI, {**resource(), "tags": {"new": "yes"}})
        # As in a server whose disk was full when the first one had been deleted.
        await PoolTable(server.file).create(ci, decode_resource(resource(), ci), {}, Operation.new(ci))
    async with control(path) as server:
        assert (await server.settled(CI))["properties"]["provisioningState"] == "Succeeded"


async def test_an_operation_cancelled_by_a_deletion_stays_cancelled(path: Path) -> None:
    ci = PoolId(LOCAL_SUBSCRIPTION, LOCAL_GROUP, "ci")
    async with control(path) as server:
        created = await server.call("PUT", CI, resource())
        await server.done("DELETE", CI)
        assert (await server.end_of(created))["status"] == "Canceled"
    async with control(path) as server:
        assert (await server.end_of(created))["status"] == "Canceled"
    cut_off, deletion = Operation.new(ci), Operation.new(ci)
    file = await StateFile.open(path)
    table = PoolTable(file)
    await table.create(ci, decode_resource(resource(), ci), {}, cut_off)
    await table.delete(ci, deletion)
    await file.close()
    for _ in range(2):
        async with control(path) as server:
            async with asyncio.timeout(30):
                while (await server.call("GET", CI)).status_code != 404:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            ends = [server.plane.operations.find(LOCAL_SUBSCRIPTION, each.id) for each in (cut_off, deletion)]
            assert [end.status for end in ends if end is not None] == ["Canceled", "Succeeded"]


def test_the_default_is_below_the_users_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_path() == Path("/data/greenroom/state.db")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr("sys.platform", "linux")
    assert default_path() == Path("/home/me/.local/share/greenroom/state.db")
