"""The commands of docs/control-plane.md work as shown."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from .memory_engine_plugin import install
from .test_killed import serving

PAGE = (Path(__file__).parents[2] / "docs/control-plane.md").read_text()


@pytest.mark.slow
async def test_each_command_prints_the_output_shown_below_it(tmp_path: Path) -> None:
    starting, commands = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    assert starting.startswith("$ greenroom serve --port 8080\nServing Azure's dynamic sessions API at http://")
    blocks = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", commands, re.MULTILINE)
    pools, *steps = [(command, shown) for command, shown in blocks]
    async with serving(tmp_path / "state.db", install(tmp_path / "plugins")) as (_, client):
        url = str(client.base_url).rstrip("/")
        for command, shown in steps:
            script = f"{pools[0]}\n{command}".replace("http://127.0.0.1:8080", url).replace("sleep 5", "sleep 1")
            shell = await asyncio.create_subprocess_exec("bash", "-c", script, stdout=asyncio.subprocess.PIPE)
            async with asyncio.timeout(60):
                output = (await shell.communicate())[0].decode()
            expected = re.escape(shown.strip().replace("http://127.0.0.1:8080", url)).replace("…", ".*")
            assert re.fullmatch(expected, output.strip(), re.DOTALL), (command, output)
