"""Cells of JavaScript have the same results in a session as in Node's own REPL; redeclaration differs by design."""

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

# Several cells run one after the other. Each story has names of its own.
STORIES: dict[str, tuple[str, ...]] = {
    "arithmetic": ("1 + 1", "0.1 + 0.2", "2 ** 64", "-0", "NaN", "1 / 0", "10n ** 30n", "0x1f | 0", "typeof 1n"),
    "strings": ("'a' + \"b\"", "`x${1}y`", "'it\\'s'", '"\\n"', "'\\u{1f98a}'", "'é'.normalize('NFD').length", "''"),
    "empty": ("undefined", "null", "void 0", "", "// nothing", ";", "{}", "[]", "({})"),
    "objects": (
        "{ a: 1, b: { c: { d: { e: 1 } } } }",
        "({ 'a-b': 1, [Symbol('s')]: 2, f() {}, get g() { return 1 }, set g(v) {} })",
        "{ a: 1 };",
        "{ a: 1 }.a",
        "Object.create(null)",
        "Object.create({ inherited: 1 })",
        "const circle = {}; circle.self = circle; circle",
    ),
    "arrays": (
        "[1, 2, 3]",
        "[, 1, , 2]",
        "Array.from({ length: 200 }, (_, i) => i)",
        "[[1, [2, [3, [4]]]]]",
        "new Array(3)",
        "['long'.repeat(10), 'long'.repeat(10), 'long'.repeat(10)]",
    ),
    "collections": (
        "new Map([['a', 1], [{}, []]])",
        "new Set([1, 'a', null])",
        "new WeakMap()",
        "new Map([[1, 2]]).entries()",
        "Buffer.from('abc')",
        "new Uint8Array([1, 2])",
        "new ArrayBuffer(4)",
        "new Date(0)",
        "/a+b/gi",
        "new URL('http://a.example/b?c=1').href",
    ),
    "functions": (
        "function hello() { return 'hello' }",
        "hello",
        "hello()",
        "() => 1",
        "(function () {})",
        "async () => {}",
        "function* counting() { yield 1 }",
        "counting().next()",
        "[...counting()]",
        "Math.max",
    ),
    "classes": (
        "class Animal { constructor(name) { this.name = name } speak() { return `${this.name} speaks` } }",
        "Animal",
        "new Animal('Rex')",
        "new Animal('Rex').speak()",
        "class Dog extends Animal { #secret = 1; static kind = 'dog'; get secret() { return this.#secret } }",
        "Dog",
        "[new Dog('Bo').secret, Dog.kind]",
        "new (class extends Array {})(3)",
        "Animal.name",
    ),
    "declarations": (
        "let one = 1",
        "const two = 2, three = 3",
        "var four",
        "one + two + three",
        "one = 10; one",
        "two = 5",
        "let { a1, ...rest1 } = { a1: 1, b1: 2 }",
        "[a1, rest1]",
        "5; let six = 6",
        "four",
        "implicit = 7",
        "implicit",
        "undeclared",
        "typeof undeclared",
    ),
    "statements": (
        "for (const i of [1, 2, 3]) i * 2",
        "if (false) 1; else 'else'",
        "{ let inner = 1; inner + 1 }",
        "try { throw 1 } catch (e) { e + 1 }",
        "switch (2) { case 2: 'two' }",
        "label: for (;;) { break label }",
        "var counter = 0; while (counter < 3) counter++",
        "do { counter-- } while (counter > 0); counter",
        "1; 2; 3",
        "1,\n2",
    ),
    "await": (
        "await 1",
        "const awaited = await Promise.resolve({ a: 1 })",
        "awaited.a",
        "let [first, second] = await Promise.all([1, 2]); first + second",
        "for await (const each of [1, 2]) console.log(each)",
        "await (async () => 'called')()",
        "const after = await new Promise(r => setTimeout(r, 5, 'later')); after",
        "await Promise.reject(new RangeError('rejected'))",
        "function hoisted() { return await_ } var await_ = 4; await 0; hoisted()",
        "class Waiting { static value = 1 }; await Waiting.value",
        "await import('node:path').then(p => p.sep)",
        "for (var looped = 0; looped < 2; looped++) await looped",
        "looped",
        "if (await true) { var branched = 'yes' }",
        "branched",
        "for (const each of [await 1, 2]) { var { length } = 'ab', nothing; var own = each }",
        "[length, nothing, own]",
        "for (var [key, value] of Object.entries({ k: await 5 })) { for (var j = 0, k; j < 2; j++) k = j }",
        "[key, value, j, k]",
        "for (var property in { p: await 1 });\nproperty",
        "try { await Promise.reject(1) } catch (e) { var caught = e } finally { var done = true }; [caught, done]",
        "const { deep: [zero, third = await 3] } = { deep: [1] }, fourth = third + 1; fourth",
        "await (async function named() { return named.name })()",
        "const lambda = async () => { var own = 'inner'; return own }; [await lambda(), own]",
        "let spread = [...await Promise.resolve([1, 2])]\nspread\n.map(x => x * 2)",
        "`${await 'template'}`",
        "let x1 = 1, y1\nlet z1 = await 2; // comment\n[x1, y1, z1]",
        "async function* generate() { yield 1 } let total = 0; for await (const n of generate()) total += n; total",
        "class Base1 {}; class Derived1 extends (await Base1) {}; new Derived1() instanceof Base1",
        "var v1 = await 1, v2, [v3] = [3]; ({ v1, v2, v3 })",
        "outer1: for (;;) { await 1; break outer1 }",
        "const fn1 = function () { return arguments.length }; await fn1(1, 2)",
        "await 1, 2",
        "(await 1) + 1 // comment",
        "(await { a: 1 })",
        "/* c */ await 6 /* d */ ;",
        "0; { function inBlock() { return 'block' } } await 1; inBlock()",
        "inBlock()",
        "if (await true) function inBranch() { return 'branch' }\ninBranch()",
        "inBranch()",
        "if (await false) { function never() {} }; typeof never",
        "typeof never",
        "switch (await 1) { case 1: function inCase() { return 'case' } }",
        "inCase()",
        "await 1; (() => { { function withinFunction() {} } })()",
        "typeof withinFunction",
        "try { await Promise.reject(1) } catch { function inCatch() { return 'catch' } }",
        "inCatch()",
    ),
    "errors": (
        "throw new TypeError('thrown')",
        "null.x",
        "undefined()",
        "new Array(-1)",
        "JSON.parse('{')",
        "decodeURIComponent('%')",
        "throw new (class Special extends Error { name = 'Special' })('own')",
        "(() => { throw new Error('deep') })()",
        "BigInt(1.5)",
        "Symbol() + ''",
        "throw 5",
        "throw 'text'",
        "throw { a: 1 }",
    ),
    "syntax": (
        "let broken = ;",
        "foo bar",
        "let twice = 1; let twice = 2",
        "'unterminated",
        "1 +* 2",
        "return 5",
        "var 1a",
        "({ a: 1, })",
        "function () {}",
    ),
    "printed": (
        "console.log('text', 1, { a: [1] }, null, undefined)",
        "console.log('%s is %d and %j %o', 'x', 5, { a: 1 }, [1])",
        "console.table([{ a: 1, b: 'x' }, { a: 2 }])",
        "console.group('outer'); console.log('inner'); console.groupEnd(); console.log('after')",
        "console.dir({ a: { b: { c: { d: 1 } } } }, { depth: 0 })",
        "console.log(new Map([[1, 2]]), new Set('ab'), () => 1, class K {})",
        "console.log()",
        "console.log('a\\tb\\nc')",
    ),
    "modules": (
        "const paths = require('path'); paths.join('a', '..', 'b')",
        "path.basename('/x/y.txt')",
        "os.EOL",
        "require('util').inspect('x')",
        "typeof fs.readFileSync",
        "typeof fetch + typeof structuredClone + typeof performance.now",
    ),
    "inspection": (
        "new Proxy({ a: 1 }, {})",
        "({ get boom() { throw new Error('getter') } })",
        "({ [Symbol.for('nodejs.util.inspect.custom')]() { return 'custom' } })",
        "Object.assign(() => {}, { property: 1 })",
        "[new Error('listed').message]",
        "'x'.repeat(12_000).length",
        "'y'.repeat(12_000)",
        "globalThis === this",
        "new Intl.NumberFormat('en-US').format(1234567.891)",
        "structuredClone({ d: new Date(0), m: new Map([[1, 2]]) })",
        "[Symbol.iterator, Symbol('x'), Symbol.for('y')]",
        "new Number(3)",
        "Object(1n)",
    ),
}


@pytest.fixture(scope="module")
def repl() -> dict[str, list[dict[str, Any]]]:
    """What came of each cell in Node's REPL."""
    program = asyncio.run(node.find())
    driver = Path(__file__).with_name("repl.cjs")
    ended = subprocess.run(
        [program, "--no-warnings", driver],
        input=json.dumps(STORIES),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with engine_pool("bubblewrap:", container_type="NodeLTS") as pool, pool.session() as session:
        yield session


def test_there_are_enough_cells() -> None:
    assert sum(map(len, STORIES.values())) >= 60


@pytest.mark.parametrize("name", STORIES)
def test_cells_have_the_same_results_as_in_nodes_repl(
    repl: dict[str, list[dict[str, Any]]], session: Session, name: str
) -> None:
    for code, expected in zip(STORIES[name], repl[name], strict=True):
        if not code.strip():
            continue  # a session refuses it
        execution = session.execute(code)
        error = execution.error
        got = {
            "result": execution.result,
            "error": error and [error.name, error.value],
            "stdout": execution.stdout,
        }
        if expected["error"] and expected["error"][0] is None and error is not None:  # not an error object
            expected["error"][0] = error.name
        assert got == expected, code
