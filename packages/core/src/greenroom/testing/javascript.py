"""The conformance suite of JavaScript: what every session of a NodeLTS pool does with code."""

from __future__ import annotations

from greenroom.models import StreamText
from greenroom.sessions import Session, SessionPool
from greenroom.testing.javascript_ends import JavaScriptEnds, failure, results


class JavaScriptSuite(JavaScriptEnds):
    """JavaScript in Node.js: state, results, output, errors, interrupts.

    The pool has `JavaScriptSuite.options`.
    """

    # State

    def test_declarations_persist_and_can_be_repeated(self, session: Session) -> None:
        assert results(
            session,
            "const x = 41; let y = 1; var z = 0; class A { m() { return x } }; function f() { return [x, y, z] }",
            "x + y",
            "let x = 1; const y = 2; function z() {}; f().length + new A().m()",
            "class x {}; const f = () => x.name; let A; f() + typeof A",
            "const { a, b: [c, ...d], ...e } = { a: 1, b: [2, 3, 4], f: 5 }; JSON.stringify([a, c, d, e])",
            "const a = 2, c = a; a + c",
        ) == [None, "42", "4", "'xundefined'", """'[1,2,[3,4],{"f":5}]'""", "4"]

    def test_functions_see_the_current_bindings(self, session: Session) -> None:
        assert results(
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
            assert failure(session, code) == refused, code
        assert failure(session, "const late = 1; await 0; late += 1") == refused
        assert results(
            session,
            "free = 2; { let fixed = 1; fixed = 5 } (fixed => fixed = 3)(0); [fixed, free]",
            "let fixed = 7; fixed = 8",
        ) == ["[ 1, 2 ]", "8"]

    def test_names_of_the_runtime_can_be_declared(self, session: Session) -> None:
        assert results(
            session,
            "const fs = require('fs'), crypto = 1, navigator = { userAgent: 'mine' }; let performance = 2",
            "[typeof fs.readFileSync, crypto, navigator.userAgent, performance]",
            "typeof path.join + typeof os.cpus + typeof structuredClone + typeof fetch",
        ) == [None, "[ 'function', 1, 'mine', 2 ]", "'functionfunctionfunctionfunction'"]
        assert results(
            session, "let process = null; const console = 5", "6 * 7", "function process(d) { return d }; process(1)"
        ) == [None, "42", "1"]

    def test_modules_can_be_imported(self, session: Session) -> None:
        session.upload(b"export const one = 1; export default function two() { return 2 }", "own.mjs")
        session.upload(b"exports.three = 3; exports.main = require.main === module", "own.cjs")
        session.upload(b"module.exports = 4", "node_modules/four/index.js")
        assert results(
            session,
            "import two, { one as uno } from './own.mjs'\nimport * as own from './own.cjs';\n[uno, two(), own.three]",
            "const { three, main } = require('./own.cjs'); [three, main, require.main === module]",
            "(await import('four')).default + require('four')",
            "import fs, { readFileSync } from 'node:fs'\nfs.readFileSync === readFileSync",
            "const later = () => import('node:path'); (await later()).sep",
        ) == ["[ 1, 2, 3 ]", "[ 3, false, true ]", "8", "true", "'/'"]
        name, value = failure(session, "import { nothing } from 'node:fs'")
        assert (name, value) == (
            "SyntaxError",
            "The requested module 'node:fs' does not provide an export named 'nothing'",
        )
        assert failure(session, "require('no-such-package')")[1].startswith("Cannot find module 'no-such-package'")

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
        assert failure(shared, "(async () => { throw new RangeError('late') })()") == ("RangeError", "late")

    def test_variables_of_the_environment(self, pool: SessionPool) -> None:
        show = "[process.env.A, process.env.B, new Date(0).getHours()]"
        with pool.session(env={"A": "a", "TZ": "Asia/Tokyo"}) as session:
            usual = "[ 'a', undefined, 9 ]"
            assert session.execute(show).result == usual
            assert session.execute(show, env={"A": "Ω", "B": "b", "TZ": "UTC"}).result == "[ 'Ω', 'b', 0 ]"
            session.execute("process.env.B = 'kept'; throw new Error('failed')", env={"B": "b"})
            session.execute("for (;;);", env={"B": "interrupted"}, timeout=0.5)
            assert session.execute(show).result == usual
            other = pool.session(session.identifier, env={"B": "other"})
            assert other.execute(show).result == "[ undefined, 'other', 0 ]"

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
        assert shared.execute("1", timeout=60).result == "1"

    def test_a_flood_is_cut_and_does_not_fill_the_memory(self, shared: Session) -> None:
        execution = shared.execute(
            "for (let i = 0; i < 300; i++) console.log('x'.repeat(1 << 20)); 'after'", timeout=120
        )
        assert execution.result == "'after'"
        assert execution.truncated > 200 << 20

    def test_late_output_of_earlier_code_goes_to_the_next_execution(self, session: Session) -> None:
        first = session.execute("setTimeout(() => { console.log('late'); throw new Error('of a timer') }, 10)")
        execution = session.execute("await new Promise(r => setTimeout(r, 300)); 1")
        assert first.stdout + execution.stdout == "late\n"
        if first.error is None and execution.error is None:  # the timer fired between them
            assert "Uncaught Error: of a timer" in first.stderr + execution.stderr
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
        assert failure(shared, "$$.async(); setTimeout(() => $$.sendError(new TypeError('sent')), 5)") == (
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
        assert "cannot be answered" in failure(shared, "$$.input({ prompt: '?' })")[1]
