"""The part of the JavaScript conformance suite about errors, interrupts and crashes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from greenroom.models import Execution
from greenroom.sessions import Session
from greenroom.testing.suite import Suite


def results(session: Session, *cells: str) -> list[str | None]:
    """Run cells that must succeed; return their results."""
    return [session.execute(code).raise_for_error().result for code in cells]


def failure(session: Session, code: str) -> tuple[str, str]:
    """Run code that must fail; return its error's name and value."""
    error = session.execute(code).error
    assert error is not None, code
    return error.name, error.value


class JavaScriptEnds(Suite):
    """How JavaScript ends: errors, interrupts, limits and crashes."""

    options: ClassVar[Mapping[str, Any]] = {
        "container_type": "NodeLTS",
        "memory": "512Mi",
        "disk": "32Mi",
        "pids": 64,
        "preload": (),
    }

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
            assert failure(shared, code) == expected, code
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

    def test_an_uncaught_error_fails_the_cell(self, shared: Session) -> None:
        forever = "await new Promise(() => {})"
        cells = {
            f"setTimeout(() => {{ throw new TypeError('timer') }}, 5); {forever}": ("TypeError", "timer"),
            f"Promise.reject(new RangeError('rejected')); {forever}": ("RangeError", "rejected"),
            "Promise.reject(8); 'value'": ("number", "8"),
            f"process.nextTick(() => null.x); {forever}": ("TypeError", "Cannot read properties of null (reading 'x')"),
            f"new (require('events'))().emit('error', new Error('event')); {forever}": ("Error", "event"),
        }
        for code, expected in cells.items():
            assert failure(shared, code) == expected, code
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
            if "Promise" not in code:  # otherwise, no code may be running at that moment
                assert "Cell" in execution.error.summary, code
            assert session.execute("kept").result == "7", code

    def test_code_that_cannot_be_interrupted_is_killed(self, session: Session) -> None:
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

    def test_code_can_replace_builtins_that_the_runner_uses(self, session: Session) -> None:
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

    def test_code_can_change_what_all_objects_inherit(self, session: Session) -> None:
        inherited = (
            "value", "get", "set", "writable", "name", "result", "error", "run", "interrupt", "output", "done", "then",
            "lineOffset", "timeout", "number", "isOver", "isAsync", "display_id", "update", "text/html", "data",
        )  # fmt: skip
        of_each = f"for (const each of {list(inherited)})"
        accessor = "{ __proto__: null, get() { return 5 }, set() { throw 1 }, configurable: true }"
        for code in (
            f"{of_each} Object.prototype[each] = 5",
            f"{of_each} Object.prototype[each] = () => 5",
            f"{of_each} Object.defineProperty(Object.prototype, each, {accessor})",
            f"{of_each} delete Object.prototype[each]",
            "Object.entries = Object.keys = Object.defineProperty = () => { throw 1 }",
            "Object.getPrototypeOf([][Symbol.iterator]()).next = () => { throw 1 }",
            "Array.prototype[Symbol.iterator] = () => { throw 1 }",
            "Set.prototype.has = Set.prototype.add = Map.prototype.get = () => { throw 1 }",
            "process.__defineGetter__('stdout', () => { throw 1 })",
            "globalThis.__defineGetter__('$$', () => 5)",
            "Object.freeze(Object.prototype)",
        ):
            session.execute(f"{code}; null")
            assert results(session, "1 + 1", "await 3", "const own = { a: 1 }; own") == ["2", "3", "{ a: 1 }"], code
            assert failure(session, "throw new TypeError('told')") == ("TypeError", "told"), code
        assert not session.execute("0").state_lost

    def test_return_is_an_error_outside_a_function(self, shared: Session) -> None:
        for code in ("return 5", "await 1; return 5", "if (await 1) { return 5 }", "for await (const x of []) return"):
            assert failure(shared, code) == ("SyntaxError", "Illegal return statement"), code
        assert results(shared, "await (async () => { return 5 })()") == ["5"]

    def test_a_function_in_a_block_is_a_variable_unless_that_would_be_an_error(self, shared: Session) -> None:
        assert results(
            shared,
            "{ let lexical = 1; { function lexical() {} } } await 1; typeof lexical",
            "'use strict'; 0; { function strict() {} } await 1; typeof strict",
            "0; { async function later() {} } await 1; typeof later",
            "[typeof lexical, typeof strict, typeof later].join()",
            "0; { function twice() { return 1 } } await 1; twice = 2; 0; { function twice() { return 3 } } twice()",
            "twice()",
        ) == ["'undefined'"] * 3 + ["'undefined,undefined,undefined'", "3", "3"]

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

    def test_the_code_has_the_usual_environment(self, shared: Session) -> None:
        assert results(
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
        name, value = failure(session, "fs.writeFileSync('big', Buffer.alloc(64 << 20))")
        assert (name, "no space left on device" in value) == ("Error", True)
        session.execute("fs.rmSync('big')").raise_for_error()
        many = "for (let n = 0; n < 100; n++) require('child_process').spawn('sleep', ['60'])"
        assert "EAGAIN" in failure(session, f"{many}; await new Promise(() => {{}})")[1]
        assert session.execute("6 * 7").result == "42"
