"""Interrupts in calls that code makes: the graph stops, and the code waits in its session. Needs the extra `agents`.

LangGraph resumes a step by running it again from its start; `interrupt()` then returns the answers so far, in order.
The calls of one execution can run at the same time and must not take each other's answers. So each call has its own
scratchpad with its own answers, and the step asks for one call after the other. A graph that a call runs keeps its
answers in its own checkpoints, whose names must be the same each time; it gets the latest answer by the name of its
question. The state that must last until the step runs again, perhaps in another process, is a record. It is the first
of the step's answers, so that LangGraph keeps it with them in the checkpoint.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count
from typing import Any
from uuid import uuid4

from langchain_core.runnables import RunnableConfig
from langchain_core.tools import ToolException
from langgraph._internal._constants import (  # pyright: ignore[reportMissingTypeStubs]  there is no public API
    CONFIG_KEY_CHECKPOINTER,
    CONFIG_KEY_RESUME_MAP,
    CONFIG_KEY_SCRATCHPAD,
    CONFIG_KEY_SEND,
    RESUME,
)
from langgraph.errors import GraphInterrupt, is_invalid_resume
from langgraph.runtime import get_runtime
from langgraph.types import interrupt

from greenroom import MadeCall
from greenroom.adapters import shorten

_ENDED = (
    "The session ended while the code waited for a person's decision: the code has not finished, and its variables and "
    "files are gone. It had made these calls before:"
)
_MOST_TOLD = 50
_MOST_GRAPHS = 1 << 20  # per call
_LONGEST_ARGUMENTS = 200


class _Answer(dict[str, Any]):
    """The latest answer for a graph that a call runs, by the name of its question; records whether it was taken."""

    taken = False

    def __getitem__(self, name: str) -> Any:
        self.taken = True
        return super().__getitem__(name)


_TAKEN = _Answer()
_TAKEN.taken = True


class _Count:
    """Counts the questions that a call itself asks."""

    def __init__(self) -> None:
        self.made = 0

    def __call__(self) -> int:
        self.made += 1
        return self.made - 1


class Pauses:
    """The interrupts of one execution."""

    def __init__(self, config: RunnableConfig) -> None:
        """Find the record of the running step, or start one. Requires `is_possible(config)`."""
        self.failure: Exception | None = None
        """Why an answer is not valid; it can be given again."""
        self._lock = threading.Lock()
        self._configurable: Mapping[str, Any] = config.get("configurable") or {}
        self._pad: Any = self._configurable[CONFIG_KEY_SCRATCHPAD]
        self._answers: dict[int, list[Any]] = {}
        self._nested: dict[int, _Answer] = {}
        self._counted: dict[int, _Count] = {}
        self.asked: int | None = None
        """The number of the call that has just been answered."""
        self._record: dict[str, Any] = {
            "greenroom": 1,
            "execution": "",
            "owners": [],  # the call number for each question so far
            "nested": [],  # for each question, its name in a graph that the call runs, or None
            "waiting": {},
            "calls": [],
            "notes": [],
        }
        index = self._pad.interrupt_counter()
        if index < len(self._pad.resume):
            self._record = self._pad.resume[index]
        else:
            self._pad.resume.append(self._record)
        self.is_resumed = bool(self._record["owners"])
        """Whether the code was started in an earlier run of this step."""
        if not self.is_resumed:
            self._record["execution"] = uuid4().hex
            self._keep()

    @property
    def execution(self) -> str:
        """The id of the execution."""
        return self._record["execution"]

    @property
    def notes(self) -> list[str]:
        """What the model reads in addition to the result of the code."""
        return self._record["notes"]

    @property
    def turn(self) -> str:
        """A value that all steps running at the same time have in common."""
        info = get_runtime().execution_info
        return "" if info is None else info.checkpoint_id

    def replay(self) -> None:
        """Take the available answers; raises an interrupt if the latest question has none yet."""
        *before, latest = zip(self._record["owners"], self._record["nested"], strict=True)
        for number, nested in before:
            self._note(number, nested, interrupt(None))
        self._ask(*latest)

    def ask(self, made: Iterable[MadeCall]) -> None:
        """Interrupt the graph with the question of the first waiting call.

        Args:
            made: the calls so far, for the case that a later run cannot find them any more.

        Raises:
            GraphInterrupt: the question. If it is answered already, this method returns.
            ValidationError: the answer to the last question is not valid; it can be given again.
        """
        if self.failure is not None:
            self._pad.resume.pop()  # the question stands
            self._keep()
            raise self.failure
        number = min(map(int, self._record["waiting"]))
        nested = self._record["waiting"][str(number)][2]
        self._record["owners"].append(number)
        self._record["nested"].append(nested)
        self._record["calls"] = [_told(call) for call in made][:_MOST_TOLD]
        self._keep()
        self._ask(number, nested)

    def waits(self, number: int) -> bool:
        """Whether a call waits until its question can be asked."""
        return number != self.asked and str(number) in self._record["waiting"]

    def take(self, number: int, error: Exception) -> bool:
        """Record a call's question, or that the answer to it is not valid; return whether the error was one of these.

        Raises:
            ToolException: a graph that the call runs asks again because it keeps no state.
        """
        with self._lock:
            if isinstance(error, GraphInterrupt) and error.args[0]:
                question = error.args[0][0]
                nested = question.id if self._counted[number].made <= len(self._answers.get(number, ())) else None
                if nested and not self._nested.get(number, _TAKEN).taken:
                    self._record["waiting"].pop(str(number), None)
                    raise ToolException(
                        "A graph that waits for a person must keep its state: it must not have checkpointer=False."
                    )
                schema = getattr(question, "response_schema", None)
                self._record["waiting"][str(number)] = [question.value, schema, nested]
                return True
            if is_invalid_resume(error):
                self.failure = error
                return True
            self._record["waiting"].pop(str(number), None)
            return False

    def done(self, number: int) -> None:
        """Record that a call no longer needs an answer."""
        with self._lock:
            self._record["waiting"].pop(str(number), None)

    def know(self, made: Iterable[MadeCall]) -> bool:
        """Drop the questions of calls that no longer wait; return whether the call that was asked about still does."""
        waiting = {str(call.number) for call in made if call.state in {"waiting", "deferred"}}
        with self._lock:
            for number in self._record["waiting"].keys() - waiting:
                del self._record["waiting"][number]
        return str(self.asked) in waiting

    def config_of(self, number: int, config: RunnableConfig) -> RunnableConfig:
        """Return the config of a call, with its own answers."""
        send = self._configurable[CONFIG_KEY_SEND]
        counted = self._counted[number] = _Count()
        pad = replace(
            self._pad,
            interrupt_counter=counted,
            subgraph_counter=count(number * _MOST_GRAPHS).__next__,
            resume=list(self._answers.get(number, ())),
            get_null_resume=lambda _=False: None,
        )

        def sent(writes: list[tuple[str, Any]]) -> None:
            if others := [write for write in writes if write[0] != RESUME]:
                send(others)

        own = {
            **self._configurable,
            CONFIG_KEY_SCRATCHPAD: pad,
            CONFIG_KEY_SEND: sent,
            CONFIG_KEY_RESUME_MAP: self._nested.get(number),
        }
        return {**config, "configurable": own}

    def told(self) -> str:
        """Return the text that a model reads if the session has ended meanwhile."""
        calls = [f"- {each['call']}: {each['state']}" for each in self._record["calls"]]
        return "\n".join([_ENDED, *calls])

    def _ask(self, number: int, nested: str | None) -> None:
        value, schema, _ = self._record["waiting"].get(str(number), [None, None, None])
        self._note(number, nested, interrupt(value, response_schema=schema))
        self.asked = number

    def _note(self, number: int, nested: str | None, answer: Any) -> None:
        if nested is None:
            self._answers.setdefault(number, []).append(answer)
            self._nested.pop(number, None)
        else:
            self._nested[number] = _Answer({nested: answer})

    def _keep(self) -> None:
        self._configurable[CONFIG_KEY_SEND]([(RESUME, self._pad.resume)])


def is_possible(config: RunnableConfig) -> bool:
    """Whether this runs in a graph with a checkpointer, which can be interrupted and resumed."""
    configurable = config.get("configurable") or {}
    return bool(configurable.get(CONFIG_KEY_CHECKPOINTER)) and CONFIG_KEY_SCRATCHPAD in configurable


def _told(call: MadeCall) -> dict[str, str]:
    waited = "waiting, not made"
    state = {"waiting": waited, "deferred": waited, "answered": "made", "failed": "made, and failed"}[call.state]
    arguments = ", ".join(f"{name}={value!r}" for name, value in call.arguments.items())
    return {"call": f"{call.tool}({shorten(arguments, _LONGEST_ARGUMENTS)})", "state": state}
