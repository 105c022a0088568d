"""A real server, killed at random moments of its control plane's traffic: what it acknowledged is there afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest

from .memory_engine_plugin import install
from .plane import path_of, resource

COMMAND = Path(sys.executable).with_name("greenroom")
ROUNDS = int(os.environ.get("GREENROOM_KILLS", "8"))
NAMES = [f"pool-{number}" for number in range(6)]
VERSION = {"api-version": "2026-07-01"}

State = dict[str, str | None]
"""What is known of each pool: its tag, or `None` where it is not there."""


class Killed(Exception):
    """The server is gone."""


@contextlib.asynccontextmanager
async def serving(state: Path, plugins: Path) -> AsyncGenerator[tuple[asyncio.subprocess.Process, httpx.AsyncClient]]:
    options = ["--pool", "memory:?ready_session_instances=0", "--engine", "memory:", "--state", str(state)]
    process = await asyncio.create_subprocess_exec(
        COMMAND,
        "serve",
        *options,
        "--port",
        "0",
        env={**os.environ, "PYTHONPATH": str(plugins)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            line = (await process.stderr.readline()).decode()
        found = re.search(r" at (http://\S+)\n", line)
        assert found is not None, line
        async with httpx.AsyncClient(base_url=found[1], trust_env=False, timeout=30) as client:
            yield process, client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _change(client: httpx.AsyncClient, name: str, sure: State, possible: dict[str, set[str | None]]) -> None:
    """Change one pool again and again; note what was sent before, and what was acknowledged after."""
    chance = random.Random()
    number = 0
    while True:
        number += 1
        tag = f"{name}-{number}-{chance.random()}"
        kind = chance.choice(["PUT", "PUT", "PATCH", "DELETE"])
        body = {"PUT": {**resource(), "tags": {"n": tag}}, "PATCH": {"tags": {"n": tag}}, "DELETE": None}[kind]
        possible[name] = {sure[name], None if kind == "DELETE" else tag}
        try:
            content: dict[str, Any] = {} if body is None else {"json": body}
            response = await client.request(kind, path_of(name), params=VERSION, **content)
            if response.status_code in {200, 201, 202, 204}:
                sure[name] = None if kind == "DELETE" else tag
            else:
                assert response.status_code in {404, 409}, response.text
            possible[name] = {sure[name]}
            if chance.random() < 0.7 and "Azure-AsyncOperation" in response.headers:
                url = response.headers["Azure-AsyncOperation"]
                while (await client.get(url)).json()["status"] == "InProgress":  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
        except httpx.TransportError as error:
            raise Killed from error


@pytest.mark.slow
async def test_acknowledged_operations_survive_a_kill(tmp_path: Path) -> None:
    plugins, state = install(tmp_path / "plugins"), tmp_path / "state" / "state.db"
    chance = random.Random()
    sure: State = dict.fromkeys(NAMES)
    possible: dict[str, set[str | None]] = {name: {None} for name in NAMES}
    for number in range(ROUNDS + 1):
        async with serving(state, plugins) as (process, client):
            for name in NAMES:
                found = await _settled(client, name)
                assert found in possible[name], (number, name, possible[name])
                sure[name], possible[name] = found, {found}
            if number == ROUNDS:
                break
            tasks = [asyncio.create_task(_change(client, name, sure, possible)) for name in NAMES]
            await asyncio.sleep(chance.uniform(0, 0.6))
            process.kill()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(end, Killed) for end in ends), ends


async def _settled(client: httpx.AsyncClient, name: str) -> str | None:
    async with asyncio.timeout(60):
        while True:
            response = await client.get(path_of(name), params=VERSION)
            if response.status_code == 404:
                return None
            state = response.json()["properties"]["provisioningState"]
            if state not in {"InProgress", "Deleting"}:
                assert state == "Succeeded", response.text
                return response.json()["tags"]["n"]
            await asyncio.sleep(0.01)
