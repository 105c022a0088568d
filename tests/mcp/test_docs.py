"""The configurations of docs/mcp.md are valid, and each command in them starts a server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from greenroom.testing import engine_pool

from .wire import stateless

PAGE = (Path(__file__).parents[2] / "docs/mcp.md").read_text()


def configurations() -> list[dict[str, Any]]:
    """The server's entry in each configuration."""
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
    blocks += [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)]
    return [entry for block in blocks for servers in block.values() for entry in servers.values()]


def test_each_configuration_starts_the_command_or_names_the_endpoint() -> None:
    engine_pool("bubblewrap:", ready_session_instances=0).close()
    found = configurations()
    assert len(found) == 7
    assert {entry["url"] for entry in found if "url" in entry} == {"http://127.0.0.1:8080/mcp"}
    commands = {(entry["command"], *entry["args"]) for entry in found if "command" in entry}
    for name, *arguments in commands:
        command = [str(Path(sys.executable).with_name(name)), *arguments]
        message = json.dumps(stateless("tools/list")).encode() + b"\n"
        ended = subprocess.run(command, input=message, capture_output=True, timeout=60, check=False)
        assert (ended.returncode, ended.stderr) == (0, b"")
        assert "run_python" in {tool["name"] for tool in json.loads(ended.stdout)["result"]["tools"]}
