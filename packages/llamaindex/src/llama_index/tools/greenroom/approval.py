"""Approval of code by a person, before it reaches a session."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from llama_index.core.workflow import HumanResponseEvent, InputRequiredEvent

from greenroom import InvalidRequest

if TYPE_CHECKING:
    from llama_index.core.workflow import Context

Approval: TypeAlias = bool | Callable[[str], bool]
"""Whether a person approves code before it runs; or a function that tells it for one piece of code."""


class CodeDecision(HumanResponseEvent):
    """A person's decision about a model's code."""

    request_id: str
    decision: Literal["approve", "reject"]
    code: str | None = None
    """What runs in place of the model's code, if a person has changed it."""
    message: str = ""
    """For the model, where the code was rejected."""


class CodeApprovalRequired(InputRequiredEvent):
    """A model's code waits for a person's decision, on the workflow's event stream. Answer with a `CodeDecision`."""

    request_id: str
    tool: str
    """The tool that runs the code."""
    code: str

    def approve(self, code: str | None = None) -> CodeDecision:
        """Return the answer with which the code runs, or other code in its place."""
        return CodeDecision(request_id=self.request_id, decision="approve", code=code)

    def reject(self, message: str = "") -> CodeDecision:
        """Return the answer with which the code does not run.

        Args:
            message: for the model.
        """
        return CodeDecision(request_id=self.request_id, decision="reject", message=message)


async def decided(ctx: Context[Any] | None, tool: str, code: str, approval: Approval) -> CodeDecision:
    """Return what is decided about code; the workflow's step is run again when a person has decided.

    Args:
        ctx: the workflow's context.
        tool: the tool that would run the code.
        code: what the model wrote.
        approval: whether a person is asked.

    Raises:
        InvalidRequest: there is no workflow to ask in.
        WaitingForEvent: a person has not decided yet. It ends the step, and must not be caught.
    """
    request_id = hashlib.sha256(f"{tool}\0{code}".encode("utf-8", "surrogatepass")).hexdigest()
    if not (approval(code) if callable(approval) else approval):
        return CodeDecision(request_id=request_id, decision="approve")
    if ctx is None:
        raise InvalidRequest("Nothing was run: a person must approve the code, and can only be asked in a workflow.")
    return await ctx.wait_for_event(
        CodeDecision,
        waiter_event=CodeApprovalRequired(request_id=request_id, tool=tool, code=code),
        requirements={"request_id": request_id},
        timeout=None,
    )


def rejected(decision: CodeDecision) -> str:
    """Return what a model reads about code that did not run."""
    return f"The user did not let this code run. {decision.message}".strip()


def edited(decision: CodeDecision) -> str:
    """Return what a model reads before the result of code that was changed."""
    return f"The user changed the code before it ran, to:\n{decision.code}"
