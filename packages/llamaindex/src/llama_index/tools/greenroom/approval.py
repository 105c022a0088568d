"""Approval of code by a person, before it reaches a session."""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llama_index.core.workflow import HumanResponseEvent, InputRequiredEvent
from workflows.runtime.types.results import (  # pyright: ignore[reportMissingTypeStubs]  it has types
    StepWorkerStateContextVar,
)

from greenroom import InvalidRequest

if TYPE_CHECKING:
    from llama_index.core.workflow import Context

Approval: TypeAlias = bool | Callable[[str], bool]
"""Whether a person approves code before it runs, or a function that decides this for one piece of code."""


DECIDED_KEY = "greenroom_decided"
"""The key of the used decisions, each with its process, in a workflow's state."""

_PROCESS = uuid.uuid4().hex


class CodeDecision(HumanResponseEvent):
    """A person's decision about a model's code."""

    request_id: str
    decision: Literal["approve", "reject"]
    code: str | None = None
    """The code that runs in place of the model's, if a person has changed it."""
    message: str = ""
    """A message for the model if the code was rejected."""


class CodeApprovalRequired(InputRequiredEvent):
    """A model's code waits for a person's decision, on the workflow's event stream. Answer with a `CodeDecision`."""

    request_id: str
    tool: str
    """The tool that runs the code."""
    code: str

    def approve(self, code: str | None = None) -> CodeDecision:
        """Return the answer that lets the code run, or other code in its place."""
        return CodeDecision(request_id=self.request_id, decision="approve", code=code)

    def reject(self, message: str = "") -> CodeDecision:
        """Return the answer that rejects the code.

        Args:
            message: for the model.
        """
        return CodeDecision(request_id=self.request_id, decision="reject", message=message)


async def decided(ctx: Context[Any] | None, tool: str, code: str, approval: Approval) -> CodeDecision:
    """Return the decision about code. The workflow's step is run again when a person has decided.

    Args:
        ctx: the workflow's context.
        tool: the tool that would run the code.
        code: the model's code.
        approval: whether a person is asked.

    Raises:
        InvalidRequest: there is no workflow in which to ask.
        WaitingForEvent: a person has not decided yet. It ends the step and must not be caught.
    """
    if not (approval(code) if callable(approval) else approval):
        return CodeDecision(request_id="", decision="approve")
    if ctx is None:
        raise InvalidRequest("Nothing was run: a person must approve the code, and can only be asked in a workflow.")
    request_id = hashlib.sha256(f"{_call_id()}\0{tool}\0{code}".encode("utf-8", "surrogatepass")).hexdigest()
    request = CodeApprovalRequired(request_id=request_id, tool=tool, code=code)
    for number in itertools.count():
        decision = await ctx.wait_for_event(
            CodeDecision,
            waiter_event=None if number else request,
            waiter_id=f"greenroom {request_id} {number}",
            requirements={"request_id": request_id},
            timeout=None,
        )
        # A context that was just restored ignores requirements: one decision answers all waiting requests.
        if decision.request_id == request_id and await _is_first(ctx, request_id):
            return decision
    raise AssertionError("waiting ends with a decision or an exception")


def _call_id() -> str:
    """Return an id that distinguishes two calls of an agent with the same code; it is empty for any other call. It
    stays the same when the step is run again, perhaps in another process, which the tool cannot see.
    """
    step = StepWorkerStateContextVar.get(None)
    call = getattr(getattr(step, "event", None), "tool_id", None)  # models number their calls, some from 1 in each turn
    work_item = getattr(getattr(step, "state", None), "work_item_id", None)
    return f"{call}\0{work_item}" if call and work_item else ""


async def _is_first(ctx: Context[Any], request_id: str) -> bool:
    """Return whether no other call has used a decision: one that is sent twice starts the step twice.

    A step that was running when its process ended is run again with its decision. So are steps that are not an agent's:
    they start again for each event that they wait for.
    """
    if not _call_id():
        return True
    taken: dict[str, str] = await ctx.store.get(DECIDED_KEY, default={})
    if taken.get(request_id) == _PROCESS:
        return False
    await ctx.store.set(DECIDED_KEY, {**taken, request_id: _PROCESS})
    return True


def rejected(decision: CodeDecision) -> str:
    """Return the text that a model reads about code that did not run."""
    return f"The user did not let this code run. {decision.message}".strip()


def edited(decision: CodeDecision) -> str:
    """Return the text that a model reads before the result of code that was changed."""
    return f"The user changed the code before it ran, to:\n{decision.code}"
