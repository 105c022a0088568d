"""Inspects the sandboxes of a bubblewrap pool of the current user, and prints the findings as JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import greenroom
from greenroom import EngineUnavailable, Session

FORK_BOMB = """
import os, time
children = []
try:
    while True:
        if (pid := os.fork()) == 0:
            time.sleep(600)
        children.append(pid)
except OSError as error:
    print(type(error).__name__)
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""


def told(session: Session, code: str, timeout: float = 20) -> str:
    """The result of code, otherwise its output, otherwise the name of its error."""
    execution = session.execute(code, timeout=timeout)
    return execution.result or execution.stdout.strip() or (execution.error.name if execution.error else "")


def answers() -> dict[str, object]:
    options: dict[str, Any] = {"memory": "512Mi", "pids": 32, "preload": (), "ready_session_instances": 0}
    with greenroom.connect("bubblewrap:", **options) as pool, pool.session() as session:
        session.upload(b"1,2", "a.csv")
        return {
            "the user": os.getuid(),
            "code runs": told(session, "before = 1\n6 * 7"),
            "files go in": told(session, "open('/mnt/data/a.csv').read() + open('b.csv', 'w').write('3') * ''"),
            "files come out": session.download("b.csv").decode(),
            "capabilities": told(
                session, "[line.split()[1] for line in open('/proc/self/status') if line[:4] == 'CapE']"
            ),
            "writes to the system": told(session, "open('/usr/greenroom-was-here', 'w')"),
            "sees its neighbours": told(
                session, "import os\nlen([name for name in os.listdir('/proc') if name.isdigit()])"
            ),
            "networks": told(session, "import socket\nsocket.if_nameindex()"),
            "goes out": told(session, "socket.create_connection(('192.0.2.1', 80), 5)"),
            "takes too much memory": told(session, "x = bytearray(1 << 30)"),
            "forks without an end": told(session, FORK_BOMB),
            "takes too much time": told(session, "while True: pass", timeout=0.5),
            "is still there": told(session, "before"),
            "does not react": told(session, "sum(range(10**14))", timeout=0.5),
            "begins anew": told(session, "'before' in globals(), open('b.csv').read()"),
        }


def children() -> list[str]:
    return Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()


if __name__ == "__main__":
    try:
        print(json.dumps({**answers(), "what is left": children()}))
    except EngineUnavailable as error:
        print(json.dumps({"unavailable": str(error)}))
