"""Carries out the supervisor's orders to save and to load a session."""

from __future__ import annotations

from json import loads
from signal import SIG_IGN, SIGINT, default_int_handler, signal
from time import perf_counter
from typing import Any

from ...protocol import Frame, WorkerEvent, bundle
from ..errors import describe
from ..link import Link
from .session import Beginning, Saving, load
from .stream import StreamEnded


def carry_out(op: str, body: bytes, link: Link, beginning: Beginning) -> Frame:
    """Save or load the session, and return the event that reports the end.

    Args:
        op: `save` or `load`.
        body: the body of the order.
        link: the link to the supervisor.
        beginning: the initial state of a new session.
    """
    began, shell = perf_counter(), beginning.shell
    saving = Saving(beginning, loads(body)) if op == "save" else None
    error: BaseException | None = None
    try:
        signal(SIGINT, default_int_handler)
        link.send(WorkerEvent.began())
        with shell.builtin_trap:  # with `get_ipython`, as when cells run
            if saving is not None:
                _save(saving, link)
            else:
                _report(link, failed=load(beginning, link.receive_piece))
        signal(SIGINT, SIG_IGN)
    except (KeyboardInterrupt, StreamEnded) as caught:
        signal(SIGINT, SIG_IGN)
        error = caught
        if saving is not None:
            _report(link, at=saving.at)
    except BaseException as caught:  # noqa: BLE001  whatever an object's own methods raise
        signal(SIGINT, SIG_IGN)
        error = caught
    described = None if error is None else describe(type(error), error, [])
    return WorkerEvent.done(duration=perf_counter() - began, error=described)


def _save(saving: Saving, link: Link) -> None:
    size = saving.prepare()
    _report(link, size=size)
    failed = saving.write(lambda piece: link.send_and_wait(WorkerEvent.piece(piece)))
    _report(link, size=size, left_out=saving.left_out, failed=failed)


def _report(link: Link, **content: Any) -> None:
    """Send what is known so far, as a result of the execution."""
    body = bundle({"application/json": content}, {})
    link.send_and_wait(WorkerEvent.output(body, result=True))
