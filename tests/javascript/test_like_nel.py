"""Displays and errors of JavaScript are those of nel, the evaluator inside the IJavascript kernel that Azure uses."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from greenroom import Session
from greenroom.engines.bubblewrap import node
from greenroom.testing import engine_pool

NEL = Path(__file__).parents[2] / ".venv-nel/node_modules/nel"

CELLS = (
    "1 + 1",
    "'text'",
    "var a = { b: [1, 2, { c: 3 }] }; a",
    "undefined",
    "null",
    "console.log('printed'); 5",
    "$$.text('text')",
    "$$.html('<b>html</b>')",
    "$$.svg('<svg/>')",
    "$$.png('cG5n')",
    "$$.jpeg('anBlZw==')",
    "$$.json({ a: [1, null, 'x'] })",
    "$$.mime({ 'text/plain': 'p', 'text/html': '<i>h</i>' })",
    "$$.html('<p>alone</p>'); 'not shown'",
    "$$.sendResult({ sent: 1 })",
    "$$.done('done')",
    "$$.async(); setTimeout(() => $$.done(42), 10); 'not shown'",
    "$$.async(); setTimeout(() => $$.sendResult('later'), 10)",
    "$$.async(); setTimeout(() => $$.html('<u>later</u>'), 10)",
    "$$.async(); Promise.resolve(7).then($$.sendResult)",
    "$$.text('first', true); $$.text('second', true); $$.text('last')",
    "$$.html('kept', true); setTimeout(() => $$.done('end'), 10)",
    "$$.text(Promise.resolve('resolved'))",
    "$$.sendResult(new Promise(r => setTimeout(r, 5, { slow: true })))",
    "$$.png(Promise.resolve('cG5n'))",
    "$$html$$ = '<b>old</b>'",
    "$$mime$$ = { 'text/plain': 'old' }",
    "$$async$$ = true; setTimeout(() => $$done$$('old'), 10)",
    "$$.display().text('displayed'); 1",
    "$$.display('named').html('<b>n</b>'); 2",
    "({ _toHtml() { return '<b>own</b>' }, x: 1 })",
    "({ _toPng: () => 'cG5n', _toSvg: () => '<svg/>', _toJpeg: () => 'anBlZw==' })",
    "({ _toMime: () => ({ 'text/html': '<i>m</i>' }), y: 2 })",
    "({ _toMime: () => ({ 'text/plain': 'plain', 'application/json': { z: 3 } }) })",
    "({ _toHtml() { throw new Error('hidden') } })",
    "$$mimer$$ = value => ({ 'text/plain': `<${value}>` }); 'mimed'",
    "'again'",
    "$$mimer$$ = $$defaultMimer$$; 'default'",
    "throw new TypeError('bad')",
    "throw new Error()",
    "throw 5",
    "throw 'text'",
    "throw null",
    "throw { a: 1 }",
    "throw { name: 'Named', message: 'message' }",
    "null.x",
    "let broken = ;",
    "undeclared",
    "$$.sendError(new RangeError('sent'))",
    "$$.async(); setTimeout(() => $$.sendError('sent text'), 5)",
    "$$.sendResult(Promise.reject(new EvalError('rejected')))",
    "console.log('before'); throw new URIError('after')",
)

DIFFERENT = {
    "throw new Error()": "nel's value of an error without a message is its whole stack",
}
"""Cells with the reason why they differ."""


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Any]]:
    if not NEL.is_dir():
        pytest.skip("nel is not installed (make nel)")
    program = asyncio.run(node.find())
    command = [program, "--no-warnings", Path(__file__).with_name("nel.cjs"), NEL]
    ended = subprocess.run(command, input=json.dumps(CELLS), capture_output=True, text=True, check=True, timeout=60)
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with engine_pool("bubblewrap:", container_type="NodeLTS") as pool, pool.session() as session:
        yield session


def test_displays_and_errors_are_those_of_nel(expected: list[dict[str, Any]], session: Session) -> None:
    different: dict[str, Any] = {}
    for code, result in zip(CELLS, expected, strict=True):
        execution = session.execute(code, timeout=20)
        error = execution.error
        got = {
            "shown": [dict(output.data) for output in execution.outputs],
            "error": error and [error.name, error.value],
            "stdout": execution.stdout,
        }
        result["shown"] = [shown for shown in result["shown"] if shown != {"text/plain": "undefined"}]
        if got != result:
            different[code] = (got, result)
    assert different.keys() == DIFFERENT.keys(), different
