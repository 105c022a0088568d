"""The conformance suite of JavaScript: what every session of a NodeLTS pool does with code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from greenroom.models import Execution, StreamText
from greenroom.sessions import Session
from greenroom.testing.suite import Suite


def _results(session: Session, *cells: str) -> list[str | None]:
    return [session.execute(code).raise_for_error().result for code in cells]


def _failure(session: Session, code: str) -> tuple[str, str]:
    """Run code that fails; return its error's name and value."""
    error = session.execute(code).error
    assert error is not None, code
    return error.name, error.value


class JavaScriptSuite(Suite):
    """JavaScript in Node.js: state, results, output, errors, interrupts.

    The pool has `JavaScriptSuite.options`.
    """

    options: ClassVar[Mapping[str, Any]] = {
        "container_type": "NodeLTS",
        "memory": "512Mi",
        "disk": "32Mi",
        "pids": 64,
        "preload": (),
    }

    # State

    def test_what_a_cell_declares_persists_and_may_be_declared_again(self, session: Session) -> None:
        assert _results(
            session,
            "const x = 41; let y = 1; var z = 0; class A { m() { return x } }; function f() { return [x, y, z] }",
            "x + y",
            "let x = 1; const y = 2; function z() {}; f().length + new A().m()",
            "class x {}; const f = () => x.name; let A; f() + typeof A",
            "const { a, b: [c, ...d], ...e } = { a: 1, b: [2, 3, 4], f: 5 }; JSON.stringify([a, c, d, e])",
            "const a = 2, c = a; a + c",
        ) == [None, "42", "4", "'xundefined'", """'[1,2,[3,4],{"f":5}]'""", "4"]

    def test_functions_see_the_current_bindings(self, session: Session) -> None:
        assert _results(
            session,
            "let n = 1; const step = () => helper(n); function helper(n) { return n * 10 }",
            "step()",
            "const n = 2; step()",
            "await 0; function helper(n) { return n * 100 }; let n = 3; step()",
            "var n = 4; await 0; step()",
        ) == [None, "10", "20", "300", "400"]

    def test_a_constant_cannot_be_assigned_to(self, session: Session) -> None:
        session.execute("const fixed = 1; let free = 1; import { sep } from 'node:path'")
        refused = ("TypeError", "Assignment to constant variable.")
        for code in ("fixed = 2", "fixed++", "[fixed] = [2]", "({ fixed } = {})", "for (fixed of [1]);", "sep = ''"):
            assert _failure(session, code) == refused, code
        assert _failure(session, "const late = 1; await 0; late += 1") == refused
        assert _results(
            session,
            "free = 2; { let fixed = 1; fixed = 5 } (fixed => fixed = 3)(0); [fixed, free]",
            "let fixed = 7; fixed = 8",
        ) == ["[ 1, 2 ]", "8"]

    def test_names_of_the_runtime_may_be_declared(self, session: Session) -> None:
        assert _results(
            session,
            "const fs = require('fs'), crypto = 1, navigator = { userAgent: 'mine' }; let performance = 2",
            "[typeof fs.readFileSync, crypto, navigator.userAgent, performance]",
            "typeof path.join + typeof os.cpus + typeof structuredClone + typeof fetch",
        ) == [None, "[ 'function', 1, 'mine', 2 ]", "'functionfunctionfunctionfunction'"]

    def test_modules_can_be_imported(self, session: Session) -> None:
        session.upload(b"export const one = 1; export default function two() { return 2 }", "own.mjs")
        session.upload(b"exports.three = 3; exports.main = require.main === module", "own.cjs")
        session.upload(b"module.exports = 4", "node_modules/four/index.js")
        assert _results(
            session,
            "import two, { one as uno } from './own.mjs'\nimport * as own from './own.cjs';\n[uno, two(), own.three]",
            "const { three, main } = require('./own.cjs'); [three, main, require.main === module]",
            "(await import('four')).default + require('four')",
            "import fs, { readFileSync } from 'node:fs'\nfs.readFileSync === readFileSync",
            "const later = () => import('node:path'); (await later()).sep",
        ) == ["[ 1, 2, 3 ]", "[ 3, false, true ]", "8", "true", "'/'"]
        name, value = _failure(session, "import { nothing } from 'node:fs'")
        assert (name, value) == (
            "SyntaxError",
            "The requested module 'node:fs' does not provide an export named 'nothing'",
        )
        assert _failure(session, "require('no-such-package')")[1].startswith("Cannot find module 'no-such-package'")

    # Results

    def test_results_are_what_nodes_repl_prints(self, shared: Session) -> None:
        cells = {
            "1 + 1": "2",
            "'text'": "'text'",
            "undefined": None,
            "void 0": None,
            "null": "null",
            "-0": "-0",
            "10n ** 20n": "100000000000000000000n",
            "Symbol('s')": "Symbol(s)",
            "{ a: 1 }": "{ a: 1 }",
            "{ a: 1 };": "1",
            "[1, , 3]": "[ 1, <1 empty item>, 3 ]",
            "new Map([[1, { b: [2] }]])": "Map(1) { 1 => { b: [ 2 ] } }",
            "(function named() {})": "[Function: named]",
            "class B {}; B": "[class B]",
            "new Error('value').message": "'value'",
            "let unseen = 5": None,
            "5; let unseen = 6": "5",
            "for (const i of [1, 2]) i * 2": "4",
            "if (true) { 'block' }": "'block'",
            "function declared() {}": None,
            "await 7": "7",
            "const awaited = await 7; awaited + 1": "8",
            "await 1; let last = 2": None,
            "for await (const i of [1, 2]) i": None,
            "Promise.resolve(5)": "Promise { 5 }",
            "(async () => {})()": None,
            "new Proxy({ p: 1 }, {})": "Proxy [ { p: 1 }, {} ]",
            "({ get x() { throw 1 } })": "{ x: [Getter] }",
            "({ [util.inspect.custom]: () => 'mine' })": "mine",
            "// a comment\n1 // another": "1",
            "#!/usr/bin/env node\n2": "2",
            "'use strict'; await 3": "3",
            "await 1\n;[1, 2].length": "2",
            "let w\n(w = 1)\nawait w": "1",
            "`\n${1 + 1}\n`": "'\\n2\\n'",
            "var tuple = (1, 2); (await tuple, 3)": "3",
            "'x'.repeat(20_000)": f"'{'x' * 10_000}'... 10000 more characters",
        }
        for code, expected in cells.items():
            execution = shared.execute(code)
            assert (execution.error, execution.result) == (None, expected), code

    def test_a_promise_that_ends_a_cell_is_waited_for(self, shared: Session) -> None:
        slow = "async function main() { await new Promise(r => setTimeout(r, 50)); console.log('done'); return 1 }\n"
        execution = shared.execute(f"{slow}main()")
        assert (execution.stdout, execution.result) == ("done\n", "Promise { 1 }")
        assert _failure(shared, "(async () => { throw new RangeError('late') })()") == ("RangeError", "late")

    # Output

    def test_output_keeps_its_order(self, shared: Session) -> None:
        execution = shared.execute(
            "console.log('one', { a: 1 })\nprocess.stdout.write('two\\n')\nconsole.error('err')\n"
            "require('child_process').execSync('echo three', { stdio: 'inherit' })\n"
            "await new Promise(r => setTimeout(r, 1))\nconsole.table([[1]])\nprocess.stderr.write('or\\n')\n"
            "console.log('x'.repeat(200_000).length)"
        )
        assert execution.stdout.startswith("one { a: 1 }\ntwo\nthree\n┌")
        assert execution.stdout.endswith("200000\n")
        assert execution.stderr == "err\nor\n"

    def test_a_stream_yields_text_while_code_runs(self, shared: Session) -> None:
        for event in shared.stream("console.log('now'); for (;;);"):
            assert isinstance(event, StreamText)
            assert event.text == "now\n"
            break
        assert shared.execute("1", timeout=20).result == "1"

    def test_a_flood_is_cut_and_does_not_fill_the_memory(self, shared: Session) -> None:
        execution = shared.execute(
            "for (let i = 0; i < 300; i++) console.log('x'.repeat(1 << 20)); 'after'", timeout=120
        )
        assert execution.result == "'after'"
        assert execution.truncated > 200 << 20

    def test_what_earlier_code_writes_later_goes_to_the_next_execution(self, session: Session) -> None:
        session.execute("setTimeout(() => { console.log('late'); throw new Error('of a timer') }, 10)")
        execution = session.execute("await new Promise(r => setTimeout(r, 300)); 1")
        if execution.error is None:  # the timer was first
            assert execution.stdout == "late\n"
            assert "Uncaught Error: of a timer" in execution.stderr
        assert session.execute("2").result == "2"

    # Displays

    def test_ijavascripts_displays(self, shared: Session) -> None:
        png = "iVBORw0KGgo="
        execution = shared.execute(
            f"$$.png('{png}', true); $$.png(Buffer.from('{png}', 'base64'), true); $$.svg('<svg/>', true);\n"
            "$$.html(Promise.resolve('<b>h</b>'), true); $$.json({ a: [1] }, true);\n"
            "$$.mime({ 'text/html': '<i>m</i>', 'text/plain': 'm' }, true);\n"
            "setTimeout(() => $$.done({ answer: 42 }), 20); 'not shown'"
        )
        assert execution.error is None
        shown = [dict(output.data) for output in execution.outputs]
        assert {"image/png": png} in shown
        assert shown.count({"image/png": png}) == 2
        assert {"text/html": "<b>h</b>"} in shown
        assert {"application/json": {"a": [1]}} in shown
        assert {"text/html": "<i>m</i>", "text/plain": "m"} in shown
        assert execution.result == "{ answer: 42 }"

    def test_a_display_ends_a_cell_that_waits_for_it(self, shared: Session) -> None:
        cells = {
            "$$.async(); setTimeout(() => $$.text('later'), 10)": "later",
            "$$.async(); setTimeout(() => $$.sendResult([1]), 10)": "[ 1 ]",
            "$$.text(Promise.resolve('resolved'))": "resolved",
            "$$async$$ = true; setTimeout($$done$$, 10, 7)": "7",
            "$$.html('<p>only</p>'); 42": None,
            "$$.async(); setTimeout($$.done, 10)": None,
        }
        for code, expected in cells.items():
            assert shared.execute(code).raise_for_error().result == expected, code
        assert _failure(shared, "$$.async(); setTimeout(() => $$.sendError(new TypeError('sent')), 5)") == (
            "TypeError",
            "sent",
        )

    def test_values_show_themselves_and_displays_are_updated(self, shared: Session) -> None:
        execution = shared.execute("({ _toHtml: () => '<b>v</b>', _toPng() { throw 1 }, a: 1 })")
        assert execution.outputs[-1].data["text/html"] == "<b>v</b>"
        assert execution.result == "{ _toHtml: [Function: _toHtml], _toPng: [Function: _toPng], a: 1 }"
        execution = shared.execute("const d = $$.display('bar'); d.text('one'); d.text('two'); console.log('end')")
        assert [output.text for output in execution.outputs] == ["two"]
        assert [output.text for output in shared.execute("d.text('three')").updates] == ["three"]
        execution = shared.execute("console.log('gone'); $$.text('gone', true); $$.clear(); $$.text('kept')")
        assert (execution.stdout, [output.text for output in execution.outputs]) == ("", ["kept"])
        assert "cannot be answered" in _failure(shared, "$$.input({ prompt: '?' })")[1]

    # Errors

    def test_errors_have_the_sessions_own_frames(self, session: Session) -> None:
        session.upload(b"exports.call = f => {\n  return f()\n}\n", "own.js")
        code = "const own = require('./own.js')\nfunction inner() {\n  throw new TypeError('bad')\n}\nown.call(inner)"
        execution = session.execute(code)
        assert execution.error is not None
        assert (execution.error.name, execution.error.value) == ("TypeError", "bad")
        assert execution.error.summary == (
            "Cell 1, line 5\n    own.call(inner)\n"
            "/mnt/data/own.js, line 2, in exports.call\n    return f()\n"
            "Cell 1, line 3, in inner\n    throw new TypeError('bad')\n"
            "TypeError: bad"
        )
        assert "at inner (Cell 1:3:9)" in execution.error.traceback
        assert "greenroom" not in execution.error.traceback
        assert session.execute("await null; inner()").text_for_model() == (
            "The code failed.\n\nerror:\nCell 2, line 1\n    await null; inner()\n"
            "Cell 1, line 3, in inner\n    throw new TypeError('bad')\nTypeError: bad"
        )

    def test_a_syntax_error_has_its_place(self, session: Session) -> None:
        cells = {
            "let a = 1\nlet b = ;": ("Unexpected token ';'", "Cell 1, line 2\n    let b = ;\n            ^\n"),
            "await f(\n": ("Unexpected end of input", "Cell 2, line 2\n"),
            "let c = 1; let c = 2": ("Identifier 'c' has already been declared", "Cell 3, line 1\n"),
            "export const d = 1": ("Unexpected token 'export'", "Cell 4, line 1\n"),
            "return 1": ("Illegal return statement", "Cell 5, line 1\n"),
            "JSON.parse('{')": ("Expected property name", "Cell 6, line 1\n"),
            "if (1) {": ("Unexpected end of input", "Cell 7, line"),
        }
        for code, (value, place) in cells.items():
            error = session.execute(code).error
            assert error is not None, code
            assert (error.name, error.value.startswith(value)) == ("SyntaxError", True), (code, error.value)
            assert error.summary.startswith(place), error.summary
        session.upload(b"\nconst = 1\n", "broken.js")
        error = session.execute("require('./broken.js')").error
        assert error is not None
        assert error.summary.startswith("/mnt/data/broken.js, line 2\n    const = 1\n"), error.summary

    def test_causes_and_groups_are_described(self, shared: Session) -> None:
        error = shared.execute("throw new Error('outer', { cause: new TypeError('root') })").error
        assert error is not None
        assert "TypeError: root\n\nThe above error was the cause" in error.summary
        assert error.summary.endswith("\nError: outer")
        assert "[cause]: TypeError: root" in error.traceback
        error = shared.execute("await Promise.any([Promise.reject(new Error('a')), Promise.reject(2)])").error
        assert error is not None
        assert (error.name, error.value) == ("AggregateError", "All promises were rejected")
        assert "Error: a" in error.summary
        assert "number: 2" in error.summary

    def test_anything_can_be_thrown(self, shared: Session) -> None:
        cells = {
            "throw 5": ("number", "5"),
            "throw 'text'": ("string", "'text'"),
            "throw null": ("object", "null"),
            "throw undefined": ("undefined", "undefined"),
            "throw { a: 1 }": ("object", "{ a: 1 }"),
            "throw { name: 'Mine', message: 'm' }": ("Mine", "m"),
            "throw class {}": ("function", "[class (anonymous)]"),
            "await Promise.reject(7)": ("number", "7"),
            "throw new Error": ("Error", ""),
            "throw new (class Own extends RangeError {})('o')": ("RangeError", "o"),
            "throw Object.assign(new Error('c'), { name: 'Custom' })": ("Custom", "c"),
            "throw new DOMException('d', 'AbortError')": ("AbortError", "d"),
        }
        for code, expected in cells.items():
            assert _failure(shared, code) == expected, code
        hostile = (
            "throw new Proxy(new Error('p'), { get() { throw 1 } })",
            "throw Object.defineProperty(new Error('m'), 'message', { get() { throw 1 } })",
            "throw Object.assign(new Error('s'), { stack: { toString() { throw 1 } } })",
            "throw { [util.inspect.custom]() { throw 1 } }",
            "const e = new Error('loop'); e.cause = e; e.errors = [e, e]; throw e",
            "const big = new Error('x'.repeat(5e7)); throw big",
            "throw Array.from({ length: 1e5 }, () => new Error('many'))",
            "Error.prepareStackTrace = () => { throw 1 }; throw new Error('prepared')",
            "Error.prepareStackTrace = (e, frames) => frames; throw new Error('frames')",
            "delete Error.prepareStackTrace; Error.stackTraceLimit = 0; throw new Error('no stack')",
            "Error.stackTraceLimit = 1e9; const f = () => f(); f()",
        )
        for code in hostile:
            assert shared.execute(code).status == "failed", code
        shared.execute("Error.stackTraceLimit = 10")
        assert shared.execute("6 * 7").result == "42"

    def test_what_nothing_catches_fails_the_cell(self, shared: Session) -> None:
        forever = "await new Promise(() => {})"
        cells = {
            f"setTimeout(() => {{ throw new TypeError('timer') }}, 5); {forever}": ("TypeError", "timer"),
            f"Promise.reject(new RangeError('rejected')); {forever}": ("RangeError", "rejected"),
            "Promise.reject(8); 'value'": ("number", "8"),
            f"process.nextTick(() => null.x); {forever}": ("TypeError", "Cannot read properties of null (reading 'x')"),
            f"new (require('events'))().emit('error', new Error('event')); {forever}": ("Error", "event"),
        }
        for code, expected in cells.items():
            assert _failure(shared, code) == expected, code
        caught = "process.once('uncaughtException', e => console.log('own', e.message))\n"
        execution = shared.execute(
            f"{caught}setTimeout(() => {{ throw new Error('x') }}); await new Promise(r => setTimeout(r, 50))"
        )
        assert (execution.status, execution.stdout) == ("succeeded", "own x\n")

    # The end

    def test_code_is_interrupted_wherever_it_is(self, session: Session) -> None:
        # With hooks, Node checks that code leaves every call that it has entered.
        session.execute("let kept = 7; require('async_hooks').createHook({ before() {}, after() {} }).enable()")
        for code in (
            "for (;;);",
            "await new Promise(() => {})",
            "try { for (;;); } catch {} finally { console.log('not run') }",
            "await 1; for (;;);",
            "await new Promise(() => setTimeout(() => { for (;;); }))",
            "process.nextTick(() => { for (;;); }); await new Promise(() => {})",
            "const again = () => Promise.resolve().then(again); await again()",
            "require('child_process').execSync('sleep 60')",
            "/^(a+)+$/.test('a'.repeat(60) + 'b')",
            "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0)",
            "for (;;) $$.text('x', true)",
            "for (;;) console.log('x')",
            "vm.runInNewContext('for (;;);')",
            "process.on('SIGINT', () => {}); for (;;);",
        ):
            execution = session.execute(code, timeout=0.5)
            assert (execution.status, execution.state_lost) == ("timed_out", False), code
            assert "not run" not in execution.stdout
            assert execution.error is not None
            if "Promise" not in code:  # else no code may run at that moment
                assert "Cell" in execution.error.summary, code
            assert session.execute("kept").result == "7", code

    def test_what_cannot_be_interrupted_is_killed(self, session: Session) -> None:
        session.upload(b"kept", "kept.txt")
        session.execute("let x = 1")
        execution = session.execute(
            "require('child_process').spawnSync('sh', ['-c', 'trap \"\" INT; sleep 60'])", timeout=0.5
        )
        assert (execution.status, execution.state_lost) == ("timed_out", True)
        assert session.execute("typeof x + fs.readFileSync('kept.txt')").result == "'undefinedkept'"

    def test_exit_fails_the_execution_and_ends_nothing(self, shared: Session) -> None:
        shared.execute("let x = 5")
        for code, number in (
            ("process.exit(3)", 3),
            ("try { process.exit() } finally { console.log('never') }", 0),
            ("process.exitCode = 4; process.exit()", 4),
            ("await 1; process.exit(5)", 5),
            ("Promise.reject(1).catch(() => process.exit(6)); await new Promise(() => {})", 6),
            ("setTimeout(() => process.exit(7), 5); await new Promise(() => {})", 7),
        ):
            execution = shared.execute(f"console.log('before'); {code}; console.log('never')")
            assert (execution.status, execution.stdout, execution.state_lost) == ("failed", "before\n", False), code
            assert execution.error is not None
            assert (execution.error.name, f"process.exit({number})" in execution.error.value) == ("ProcessExit", True)
        assert shared.execute("x").result == "5"

    def test_a_crash_fails_and_the_next_execution_works(self, session: Session) -> None:
        session.upload(b"kept", "kept.txt")
        execution = session.execute("console.log('last words'); process.kill(process.pid, 'SIGKILL'); for (;;);")
        assert (execution.status, execution.state_lost, execution.stdout) == ("failed", True, "last words\n")
        assert execution.error is not None
        assert "SIGKILL" in execution.error.value
        assert session.execute("fs.readFileSync('kept.txt', 'utf8')").result == "'kept'"

    def test_code_can_change_what_the_runner_stands_on(self, session: Session) -> None:
        session.execute(
            "let x = 1\n"
            "for (const name of ['parse', 'stringify']) JSON[name] = () => { throw 1 }\n"
            "Promise.prototype.then = Promise.prototype.catch = Promise.resolve = () => { throw 2 }\n"
            "Buffer.from = Buffer.alloc = Buffer.concat = () => { throw 3 }\n"
            "process.stdout.write = process.emit = process.on = process.listenerCount = () => { throw 4 }\n"
            "Reflect.apply = Object.keys = Object.defineProperty = Array.isArray = () => { throw 5 }\n"
            "String.prototype.slice = RegExp.prototype.test = Function.prototype.call = () => { throw 6 }\n"
            "Object.prototype.toJSON = Array.prototype.toJSON = () => { throw 7 }\n"
            "MessagePort.prototype.postMessage = () => { throw 8 }\n"
            "setImmediate = setTimeout = queueMicrotask = Atomics.load = () => { throw 9 }\n"
            "fs.writeSync = fs.readSync = vm.Script.prototype.runInThisContext = () => { throw 10 }\n"
            "Symbol.iterator = String = console = undefined"
        )
        assert session.execute("x + 1").result == "2"
        assert session.execute("const y = await 3; y").result == "3"
        assert [output.text for output in session.execute("$$.text('shown')").outputs] == ["shown"]
        assert session.execute("throw new Error('told')").error is not None
        assert session.execute("await new Promise(() => {})", timeout=0.5).status == "timed_out"
        assert session.execute("for (;;);", timeout=0.5).status == "timed_out"
        assert session.execute("x").result == "1"

    def test_broken_streams_are_restored(self, session: Session) -> None:
        for code in (
            "process.stdout.end(); process.stderr.destroy()",
            "fs.closeSync(1); fs.closeSync(2)",
            "process.stdout = null",
            "require('child_process').spawnSync(process.execPath, ['-e', ''], { stdio: 'inherit' })",
        ):
            session.execute(code)
            execution = session.execute("console.log('out'); console.error('err')")
            assert (execution.stdout, execution.stderr) == ("out\n", "err\n"), code

    def test_the_world_of_the_code(self, shared: Session) -> None:
        assert _results(
            shared,
            "[process.cwd(), __dirname, path.basename(__filename), process.argv.length, process.execArgv.length]",
            "process.stdin.on('data', () => {}); await new Promise(r => process.stdin.on('end', () => r('ended')))",
            "fs.mkdirSync('deeper', { recursive: true }); process.chdir('deeper'); process.cwd()",
            "process.chdir(__dirname); Number(process.versions.node.split('.')[0]) >= 22",
            "require('child_process').execSync('node -p 1+1').toString().trim()",
            "require('stream').Readable.from(['piped']).pipe(process.stdout); await new Promise(r => setImmediate(r))",
            "await new Promise(r => require('child_process').execFile('echo', ['async'], (e, out) => r(out)))",
        ) == [
            "[ '/mnt/data', '/mnt/data', 'cell.js', 1, 0 ]",
            "'ended'",
            "'/mnt/data/deeper'",
            "true",
            "'2'",
            None,
            "'async\\n'",
        ]
        execution: Execution = shared.execute("fs.writeFileSync('new.txt', 'abc')")
        assert [(file.name, file.size) for file in execution.files] == [("new.txt", 3)]

    def test_memory_that_runs_out_ends_the_code_and_says_so(self, session: Session) -> None:
        session.upload(b"kept", "kept.txt")
        for code in ("all.push(Buffer.alloc(64 << 20, 1))", "all.push(new Array(1000).fill(1.5))"):
            error = session.execute(f"const all = []; for (;;) {code}", timeout=60).error
            assert error is not None, code
            assert error.name in {"MemoryError", "RangeError"}, (code, error)
            assert session.download("kept.txt") == b"kept"
            assert session.execute("6 * 7").result == "42"

    def test_a_full_disk_and_too_many_processes_are_errors_of_the_code(self, session: Session) -> None:
        name, value = _failure(session, "fs.writeFileSync('big', Buffer.alloc(64 << 20))")
        assert (name, "no space left on device" in value) == ("Error", True)
        session.execute("fs.rmSync('big')").raise_for_error()
        many = "for (let n = 0; n < 100; n++) require('child_process').spawn('sleep', ['60'])"
        assert "EAGAIN" in _failure(session, f"{many}; await new Promise(() => {{}})")[1]
        assert session.execute("6 * 7").result == "42"
