"""What tools need to know about the agent run that calls them: when it ends, and its function middleware."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from copy import copy
from typing import Any

from agent_framework import (
    AgentContext,
    AgentMiddleware,
    AgentSession,
    ChatMiddlewareLayer,
    FunctionInvocationContext,
    FunctionInvocationLayer,
    FunctionMiddleware,
    SessionContext,
)
from agent_framework.exceptions import MiddlewareException

from greenroom import InvalidRequest
from greenroom.adapters import aend_run

_RUN = "greenroom_run"


class Run:
    """One run of an agent."""

    def __init__(self, agent: object = None, middleware: Sequence[Any] = (), *, without_session: bool = False) -> None:
        """
        Args:
            agent: the agent that runs; `None` if unknown.
            middleware: the agent's middleware, and the run's if it is known.
            without_session: whether the run was started without an `AgentSession`. If it has one nevertheless, the
                framework created it.
        """
        self.agent = agent
        self._middleware = middleware
        self._without_session = without_session
        self._parts: dict[str, Run] = {}
        self.providers: SessionContext | None = None
        """The middleware that context providers add."""

    def part_of(self, session: AgentSession | None) -> Run:
        """Return the owner of a session within the run: the run itself, or an agent that is a tool in it."""
        if session is None or not self._without_session:
            return self
        return self._parts.setdefault(session.session_id, Run())

    async def aend(self) -> None:
        """Delete the sessions of the run. Idempotent."""
        await asyncio.gather(*(aend_run(each) for each in (self, *self._parts.values())))

    def conversation(self, session: AgentSession | None) -> str | None:
        """Return the name of the conversation in which a tool is called; `None` if the run has none."""
        return None if session is None or self._without_session else session.session_id

    def function_middleware(self) -> list[FunctionMiddleware | Callable[..., Any]]:
        """Return the function middleware of the run, the outermost first, as the framework orders it.

        Raises:
            InvalidRequest: some of it is unknown.
        """
        of_providers = [] if self.providers is None else self.providers.get_middleware()
        of_agents = getattr(self.agent, "agent_middleware", ())
        others: list[Any] = [
            each
            for each in (*self._middleware, *of_providers)
            if not isinstance(each, AgentMiddleware | RunTeller) and not any(each is other for other in of_agents)
        ]
        try:
            known = _Sorted(middleware=others).function_middleware
        except MiddlewareException:  # a bundle that also contains agent middleware
            raise InvalidRequest(
                "An agent with a MiddlewareBundle must also have GreenroomMiddleware(), so that the bundle sees the "
                "calls that code makes: Agent(…, middleware=[GreenroomMiddleware(), …])."
            ) from None
        return [*getattr(getattr(self.agent, "client", None), "function_middleware", ()), *known]


class _Sorted(FunctionInvocationLayer[Any], ChatMiddlewareLayer[Any]):
    """A client without a service, used only to sort middleware as every client does."""


class RunTeller(FunctionMiddleware):
    """Gives the tools access to their run."""

    def __init__(self, run: Run) -> None:
        self._run = run

    async def process(self, context: FunctionInvocationContext, call_next: Callable[[], Awaitable[None]]) -> None:
        told: object = context.kwargs.get(_RUN)
        if isinstance(told, Run) and told.agent is self._run.agent:
            told.providers = self._run.providers  # unknown to the agent's own middleware
        else:  # nothing, or an agent that has this one as a tool
            context.kwargs[_RUN] = self._run
        await call_next()


class GreenroomMiddleware(AgentMiddleware):
    """Lets all function middleware see the calls that code makes, and ends the session of a run when the run ends.

    For agents with `GreenroomTools` or a `GreenroomProvider`::

        agent = Agent(client, tools=GreenroomTools(tools=[get_orders]), middleware=[GreenroomMiddleware(), audit])
    """

    async def process(self, context: AgentContext, call_next: Callable[[], Awaitable[None]]) -> None:
        middleware = [*context.client_kwargs.get("middleware", ())]
        run = Run(context.agent, middleware, without_session=context.session is None)
        context.function_invocation_kwargs[_RUN] = run
        if context.stream:
            context.stream_cleanup_hooks.append(run.aend)
            await call_next()
        else:
            try:
                await call_next()
            finally:
                await run.aend()


def run_of(context: FunctionInvocationContext) -> Run | None:
    """Return the run that calls a tool; `None` if it is unknown.

    Without `GreenroomMiddleware`, a copy of the tool identifies the run: it replaces the tool in the list of tools,
    which the framework makes for each run and drops at the end of the run.
    """
    told = context.kwargs.get(_RUN)
    if isinstance(told, Run):
        return told
    if context.session is not None:
        return None
    tools = context.tools or []
    for tool in tools:
        if isinstance(found := getattr(tool, _RUN, None), Run):
            return found
    for place, tool in enumerate(tools):
        if tool is context.function:
            own = tools[place] = copy(context.function)
            run = Run()
            setattr(own, _RUN, run)
            return run
    return None


def place_of(context: FunctionInvocationContext) -> tuple[str | None, Run | None]:
    """Return the name of the conversation in which a tool is called, and the run that is used if there is none."""
    run = run_of(context)
    if run is None:
        return (None if context.session is None else context.session.session_id), None
    return run.conversation(context.session), run.part_of(context.session)
