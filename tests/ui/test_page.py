"""The commands of docs/ui.md print what stands below them, and the page that they name is there."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
import sys
from pathlib import Path

import httpx
import pytest
from tests.control.memory_engine_plugin import install

PAGE = (Path(__file__).parents[2] / "docs/ui.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
async def test_each_command_prints_the_output_shown_below_it(block: str, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(install(tmp_path / "plugins")),
        "HOME": str(tmp_path),
        "GREENROOM_POOL": "memory:?ready_session_instances=0",
    }
    for command, shown in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE):
        is_server = command.startswith("greenroom serve")
        script = f"exec {command.replace('--port 8080', '')} --port 0 --state {tmp_path}/greenroom/state.db"
        process = await asyncio.create_subprocess_exec(
            "bash",
            "-c",
            script if is_server else command,
            cwd=tmp_path,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert process.stdout is not None
        try:
            said = ""
            async with asyncio.timeout(60):
                while line := (await process.stdout.readline()).decode():
                    said += line
                    if said.count("\n") == shown.count("\n") and is_server:
                        break
            expected = re.escape(shown.strip()).replace(r"/home/me/\.local/share", ".*").replace("…", ".*")
            assert re.fullmatch(expected.replace("8080", r"\d+"), said.strip(), re.DOTALL), said
            if (found := re.search(r"Web pages: (\S+)", said)) is not None:
                await _look(found[1].replace("0.0.0.0", "localhost"), tmp_path)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.communicate()


async def _look(url: str, home: Path) -> None:
    authority = home / ".config/greenroom/tls/ca.pem"
    context = ssl.create_default_context(cafile=authority) if url.startswith("https") else False
    async with httpx.AsyncClient(verify=context, trust_env=False, follow_redirects=True, timeout=60) as client:
        answer = await client.get(url)
    assert answer.status_code == 200
    assert ("<h1>Sign in</h1>" if authority.exists() else "<h1>Pools</h1>") in answer.text
