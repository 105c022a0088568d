"""Run a suite's Python code in sessions of another language, as a child process of their code."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self, cast

from greenroom.models import Event, Execution
from greenroom.sessions import ExecutionHandle, Session, SessionPool

_SAME = re.compile(r"\w+(?: [=+*] \w+)?")
"""Code that has the same effect in both languages."""

# Descriptor 9 receives the value of the last expression, and the name of an exception.
_RUN = """
import ast, os, sys
tree = ast.parse(sys.argv[1])
last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
names = {"__name__": "__main__"}
try:
    exec(compile(tree, "<cell>", "exec"), names)
    value = None if last is None else eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)
    told = b"" if value is None else b"=" + repr(value).encode("utf-8", "replace")
except BaseException as error:
    told = f"!{type(error).__name__}:{error}".encode("utf-8", "replace")
sys.stdout.flush()
with open(9, "wb") as file:
    file.write(told)
"""

_JAVASCRIPT = """
{
  const stdio = ["ignore", 1, 2, ...Array(6).fill("ignore"), "pipe"];
  const child = require("child_process").spawnSync("python3", ["-I", "-B", "-u", "-c", %s, %s], { stdio });
  const told = String(child.output?.[9] ?? "");
  if (child.error) throw child.error;
  if (child.signal) throw new Error(`the child was killed by ${child.signal}`);
  if (child.status) throw new Error(`the child exited with code ${child.status}`);
  if (told[0] === "!") {
    const [name, ...value] = told.slice(1).split(":");
    throw Object.assign(new Error(value.join(":")), { name });
  }
  if (told) $$.text(told.slice(1));
}
"""


def _translated(code: str) -> str:
    if not code.strip() or _SAME.fullmatch(code):
        return code
    return _JAVASCRIPT % (json.dumps(_RUN), json.dumps(code))


class _Session:
    def __init__(self, session: Session) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.delete()

    def execute(self, code: str, **options: Any) -> Execution:
        return self._session.execute(_translated(code), **options)

    async def aexecute(self, code: str, **options: Any) -> Execution:
        return await self._session.aexecute(_translated(code), **options)

    def stream(self, code: str, **options: Any) -> Iterator[Event]:
        return self._session.stream(_translated(code), **options)

    def astream(self, code: str, **options: Any) -> AsyncIterator[Event]:
        return self._session.astream(_translated(code), **options)

    def submit(self, code: str, **options: Any) -> ExecutionHandle:
        return self._session.submit(_translated(code), **options)


class _Pool:
    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def session(self, *arguments: Any, **options: Any) -> _Session:
        return _Session(self._pool.session(*arguments, **options))


def python_in_children(pool: SessionPool) -> SessionPool:
    """Return a NodeLTS pool whose sessions run Python code, each time in a new child process.

    Suites with Python code can thereby test what the sandbox of a NodeLTS session allows. Variables of the code
    do not persist. The sandbox needs `python3`.
    """
    return cast("SessionPool", _Pool(pool))
