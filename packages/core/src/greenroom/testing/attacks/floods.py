# ruff: noqa: E501  tables of attacks, one line each
"""Attacks on the host with data of any amount, size and form, as frames of the runner or through IPython."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import pytest

from greenroom.errors import FileRefused, GreenroomError, SandboxLost
from greenroom.models import Execution
from greenroom.sessions import Session
from greenroom.testing.attacks.base import (
    CALL_MARGIN,
    MIB,
    PRELUDE,
    AttackBase,
    answers,
    ask,
    attack,
    in_time,
    memory_stays_within,
    neighbour_works,
    works,
)

HOST_MEMORY = 64 * MIB
"""A multiple of the output limits of one execution and of the size of the largest frame."""

# A frame is written to the supervisor, as the worker does, and on engines that let code open the supervisor's
# descriptors, to the host, as the supervisor does.
_FRAMES = """
def frame(header, body=b''):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack('>II', len(text), len(body)) + text + body
ways = [3]
for number in range(3, 12):
    try: ways.append(os.open(f'/proc/1/fd/{number}', os.O_WRONLY | os.O_NONBLOCK))
    except OSError: pass
for way in ways: os.set_blocking(way, True)
def write(way, data):
    data = memoryview(data)
    while data: data = data[os.write(way, data):]
def flood(make, seconds=1.0):
    "Write what `make` returns for 0, 1, …, on each way in turn."
    end = time.monotonic() + seconds
    for way in ways[1:] + ways[:1]:
        number = 0
        try:
            while time.monotonic() < end:
                write(way, make(number))
                number += 1
        except OSError: pass
body = json.dumps({'data': {'text/plain': 'x'}, 'metadata': {}}).encode()
def output(**header): return {'ev': 'output', 'result': False, 'id': 1, **header}
"""
# Otherwise, a flood would wait for acknowledgements that it does not read. It also takes orders for later executions.
_READS = """
def acknowledged():
    while os.read(4, 65536): pass
threading.Thread(target=acknowledged, daemon=True).start()
"""
FRAMES: Mapping[str, str] = {
    "display names": "flood(lambda n: frame(output(display_id=str(n) + 'x' * 1_000_000), body), 2.5)",
    "display names with wide characters": (
        "flood(lambda n: frame(json.dumps(output(display_id=str(n) + '\\U0001f98a' + 'x' * 1_000_000),\n"
        "                                 ensure_ascii=False).encode(), body), 2.5)"
    ),
    "display names just below the limit": "flood(lambda n: frame(output(display_id=f'{n:0200}'), body))",
    "updates of missing displays": "flood(lambda n: frame(output(display_id=f'{n:0200}', update=True), body))",
    "updates of one display": "flood(lambda n: frame(output(display_id='x', update=n > 0), body))",
    "large headers": "flood(lambda n: frame(output(more='x' * 1_000_000), body))",
    "headers that grow when parsed": 'flood(lambda n: frame(b\'{"ev":"output","id":1,"x":[\' + b\'[],\' * 300_000 + b\'[]]}\', body))',
    "headers with many fields": "flood(lambda n: frame(output(**{f'{n}-{m}': m for m in range(30_000)}), body))",
    "outputs": "flood(lambda n: frame(output(), body))",
    "empty outputs": 'flood(lambda n: frame(output(), b\'{"data":{},"metadata":{}}\'))',
    "results": "flood(lambda n: frame(output(result=True), body))",
    "clears": "flood(lambda n: frame({'ev': 'clear', 'wait': bool(n % 2), 'id': 1}) + frame(output(), body))",
    "errors": (
        "error = json.dumps(dict.fromkeys(('name', 'value', 'traceback', 'summary'), 'x' * 50_000)).encode()\n"
        "flood(lambda n: frame({'ev': 'error', 'ends': bool(n % 3), 'id': 1}, error))"
    ),
    "small errors": (
        "error = json.dumps(dict.fromkeys(('name', 'value', 'traceback', 'summary'), '')).encode()\n"
        "flood(lambda n: frame({'ev': 'error', 'ends': bool(n % 3), 'id': 1}, error))"
    ),
    "invalid errors": "flood(lambda n: frame({'ev': 'error', 'id': 1}, (b'null', b'[]', b'\xff')[n % 3]))",
    "areas": "flood(lambda n: frame({'ev': 'area', 'begins': bool(n % 3), 'id': 1}) + frame(output(), body))",
    "text of unknown streams": "flood(lambda n: frame({'ev': 'text', 'stream': str(n), 'id': 1}, b'x'))",
    "empty text": "flood(lambda n: frame({'ev': 'text', 'stream': 'stdout', 'id': 1}))",
    "frames of unknown kinds": "flood(lambda n: frame({'ev': 'x' * 1000 + str(n), 'id': 1}, b'x' * 1_000_000))",
    "frames without a kind": "flood(lambda n: frame({'id': n}, b'x' * 1_000_000))",
    "frames for other executions": "flood(lambda n: frame(output(id=n), b'x' * 1_000_000))",
    "replies without a request": "flood(lambda n: frame({'ev': 'reply', 'id': n}, b'x' * 1_000_000))",
    "greetings": "flood(lambda n: frame({'ev': ('ready', 'preloaded', 'began')[n % 3], 'version': 1}, b'x' * 1_000_000))",
    "ends": "flood(lambda n: frame({'ev': 'done', 'id': 1, 'duration': 0.0, 'error': None, 'files': []}))",
    "ends with large errors": (
        "text = 'x' * 300_000\n"
        "flood(lambda n: frame({'ev': 'done', 'duration': 1e308, 'id': 1,\n"
        "                       'error': {'name': text, 'value': text, 'traceback': text}}))"
    ),
    "ends with wrong types": (
        "for error in (1, [], 'x', {'name': []}, {'name': {}, 'value': 1, 'traceback': None}):\n"
        "    write(3, frame({'ev': 'done', 'duration': 'x', 'error': error}))"
    ),
    "very long numbers": 'flood(lambda n: frame(b\'{"ev":"done","error":null,"duration":\' + b\'9\' * 5_000 + b\'}\'))',
    "JSON that grows when parsed": (
        "grown = b'{\"data\":{\"application/json\":[' + b'{},' * 2_700_000 + b'{}]},\"metadata\":{}}'\n"
        "flood(lambda n: frame(output(), grown))"
    ),
    "metadata that grows when parsed": (
        "grown = b'{\"data\":{},\"metadata\":{\"x\":[' + b'[],' * 2_700_000 + b'[]]}}'\n"
        "flood(lambda n: frame(output(), grown))"
    ),
    "JSON of lone surrogates": (
        'grown = b\'{"data":{"text/plain":"\' + b\'\\\\ud800\' * 1_300_000 + b\'"},"metadata":{}}\'\n'
        "flood(lambda n: frame(output(), grown))"
    ),
    "deeply nested JSON": (
        "deep = b'{\"data\":{\"application/json\":' + b'[' * 100_000 + b']' * 100_000 + b'},\"metadata\":{}}'\n"
        "flood(lambda n: frame(output(), deep))"
    ),
    "bodies that are not JSON": "flood(lambda n: frame(output(), b'\\xff' * 1_000_000))",
    "announced bodies that never arrive": (
        "for way in ways: write(way, struct.pack('>II', 10, 33 << 20) + b'{\"ev\": 1} ' + bytes(30 << 20))"
    ),
    "lengths beyond all limits": "for way in ways: write(way, struct.pack('>II', 0xffffffff, 0xffffffff) + bytes(1 << 20))",
    "half a frame": "for way in ways: write(way, struct.pack('>II', 1 << 20, 0) + b'{')",
    "noise": "flood(lambda n: os.urandom(1 << 16))",
}
DISPLAYS: Mapping[str, str] = {
    "display names": "while True: display('x', display_id=str(time.time()) + 'x' * 1_000_000)",
    "displays": "while True: display('x')",
    "large displays": "while True: display('x' * 4_000_000)",
    "HTML": "from IPython.display import HTML\nwhile True: display(HTML('<b>' * 1_000_000))",
    "updates": "handle = display('x', display_id=True)\nwhile True: handle.update('x' * 10_000)",
    "clears": "from IPython.display import clear_output\nwhile True:\n    display('x' * 10_000)\n    clear_output(wait=True)",
    "lists of lists": "while True: display({'application/json': [[]] * 1_000_000}, raw=True)",
    "many kinds": "while True: display({f'x/{n}': n for n in range(100_000)}, raw=True)",
    "metadata": "while True: display({'text/plain': 'x'}, metadata={str(n): {} for n in range(100_000)}, raw=True)",
    "text in tiny pieces": "while True:\n    os.write(1, b'x')\n    os.write(2, b'x')",
    "text of wide characters": "while True: print('\\U0001f98a' * 10_000)",
    "text with invalid characters": "while True: os.write(1, b'\\xf0\\x9f' * 10_000)",
    "displayed errors": "try: 1/0\nexcept Exception:\n    while True: get_ipython().showtraceback()",
    "errors": "raise type('E' * 10**6, (Exception,), {})('\\U0001f98a' * 10**7)",
    "files": "for number in range(20_000): open(str(number), 'w').close()",
}
# Each leaves processes that keep process 1 busy; then the host sends it orders.
DEAF: Mapping[str, str] = {
    "stopped": "attack = lambda: [attempt(os.kill, 1, signal.SIGSTOP) for _ in range(1000)]",
    "starved": (
        "attempt(os.sched_setaffinity, 1, {0})\nattempt(os.setpriority, os.PRIO_PROCESS, 1, 19)\n"
        "attempt(os.sched_setscheduler, 1, os.SCHED_IDLE, os.sched_param(0))\n"
        "attempt(os.sched_setaffinity, 0, {0})\nattack = lambda: None"
    ),
    "limited": (
        "import resource\n"
        "for name in ('NOFILE', 'NPROC', 'AS', 'DATA', 'CPU', 'FSIZE', 'STACK'):\n"
        "    attempt(resource.prlimit, 1, getattr(resource, f'RLIMIT_{name}'), (0, 0))\n"
        "attack = lambda: time.sleep(1)"
    ),
    "busy with children": "attack = lambda: os.fork() or os._exit(0)",
    "busy with text": "attack = lambda: os.write(1, bytes(1 << 16))",
}


class FloodAttacks(AttackBase):
    """Whatever a sandbox sends: the host's memory stays small, its calls end, and neighbours get replies."""

    @pytest.mark.parametrize("what", FRAMES)
    def test_frames_by_the_code_do_not_fill_the_host(self, victim: Session, neighbour: Session, what: str) -> None:
        answers(victim)
        with memory_stays_within(HOST_MEMORY), neighbour_works(neighbour):
            # The next worker receives its acknowledgements, which this one's thread would otherwise take.
            attack(victim, f"{_FRAMES}{_READS}{FRAMES[what]}\nos._exit(1)", timeout=4)
        works(neighbour)
        answers(victim)

    @pytest.mark.parametrize("what", DISPLAYS)
    def test_outputs_do_not_fill_the_host(self, victim: Session, neighbour: Session, what: str) -> None:
        answers(victim)
        with memory_stays_within(HOST_MEMORY), neighbour_works(neighbour):
            attack(victim, DISPLAYS[what], timeout=1)
        works(neighbour)
        answers(victim)

    def test_an_end_that_fills_the_header_is_accepted(self, session: Session) -> None:
        end = "{'ev': 'done', 'duration': 0.0, 'error': {'name': 'x' * ((1 << 20) - 80)}}"
        handle = session.submit(f"{PRELUDE}{_FRAMES}write(3, frame({end}))\ntime.sleep(1)")
        with contextlib.suppress(SandboxLost):
            assert in_time(0, lambda: handle.result(CALL_MARGIN)).status == "failed"
        answers(session)

    @pytest.mark.parametrize("how", DEAF)
    def test_every_call_ends_though_process_1_is(self, session: Session, neighbour: Session, how: str) -> None:
        session.upload(b"x", "file.txt")
        code = (
            f"{DEAF[how]}\n"
            "for _ in range(50):\n"
            "    if os.fork() == 0:\n"
            "        os.setsid()\n"
            "        while True: attempt(attack)\n"
        )
        attack(session, f"{code}\nos.set_blocking(1, True)", timeout=2)
        calls = (
            lambda: session.execute("#" * 2_000_000 + "\n1", timeout=2),
            lambda: session.upload(bytes(4 * MIB), "more.bin"),
            lambda: session.delete_file("file.txt"),
            session.delete,
        )
        for call in calls:
            with contextlib.suppress(GreenroomError):
                in_time(60, call)  # operations on files have a minute
            works(neighbour)
        answers(session)

    def test_every_call_ends_though_the_worker_takes_no_orders(self, session: Session) -> None:
        attack(session, "threading.Thread(target=lambda: [os.read(3, 100) for _ in range(10**9)], daemon=True).start()")
        for _ in range(2):
            attack(session, "#" * 2_000_000 + "\n1", timeout=1)
        answers(session)

    def test_a_list_of_files_that_is_too_long_ends_as_an_error(self, session: Session, neighbour: Session) -> None:
        code = (
            "for _ in range(15):\n"
            "    os.mkdir('\\x01' * 240)\n"
            "    os.chdir('\\x01' * 240)\n"
            "for number in range(3_500): open(str(number), 'w').close()\n"
            "os.chdir('/mnt/data')\nkept = 41\ntell(0)"
        )
        ask(session, code)
        with memory_stays_within(3 * HOST_MEMORY), neighbour_works(neighbour), contextlib.suppress(FileRefused):
            in_time(60, lambda: session.files(recursive=True))
        works(session)

    def test_deep_json_can_be_read_from_deep_in_the_stack(self, session: Session) -> None:
        code = (
            "for levels in (100, 190, 300, 700, 900):\n"
            "    deep = b'[' * levels + b']' * levels\n"
            "    data = b'{\"text/plain\":' + deep + b',\"application/json\":' + deep + b'}'\n"
            "    write(3, frame(output(), b'{\"data\":' + data + b',\"metadata\":' + data + b'}'))\n"
            "time.sleep(0.5)"
        )
        ended = attack(session, _FRAMES + code)
        if isinstance(ended, Execution):
            _show_below(ended, 400)
        answers(session)

    def test_signals_of_the_host_process_are_its_own(self, session: Session) -> None:
        """A process group that code creates or joins is never the host's."""
        attack(session, "for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): attempt(os.killpg, 0, number)")
        attack(
            session, "for number in range(2, 100): attempt(os.setpgid, 0, number)\nattempt(os.kill, 0, signal.SIGINT)"
        )
        answers(session)


def _show_below(execution: Execution, frames: int) -> None:
    """Show the outputs while the caller's stack is this many frames deeper."""
    if frames:
        _show_below(execution, frames - 1)
        return
    execution.text_for_model()
    for output in execution.outputs:
        repr(output)
        output.image()
        assert isinstance(output.text, str), "whatever the sandbox sent"  # pyright: ignore[reportUnnecessaryIsInstance]
