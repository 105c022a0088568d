"""A context provider: the tools, instructions for them, and the agent's function middleware for the calls of code."""

from __future__ import annotations

from typing import Any

from agent_framework import AgentSession, ContextProvider, SessionContext, SupportsAgentRun

from greenroom_agent_framework.runs import Run, RunTeller
from greenroom_agent_framework.tools import GreenroomTools


class GreenroomProvider(ContextProvider):
    """Gives the tools to each run of an agent::

        agent = Agent(client, context_providers=[GreenroomProvider(GreenroomTools(tools=[get_orders]))])

    Function middleware of the chat client, of the agent and of all context providers sees each call that code makes. A
    provider cannot know the middleware in `agent.run(middleware=…)`; with `GreenroomMiddleware`, that sees each call
    too. `GreenroomMiddleware` also makes the session of a run without an `AgentSession` end with the run.
    """

    def __init__(self, tools: GreenroomTools | None = None, *, source_id: str = "greenroom") -> None:
        """
        Args:
            tools: the tools that runs get; by default `GreenroomTools()`.
            source_id: the provider's name among those of an agent.
        """
        super().__init__(source_id)
        self.tools = GreenroomTools() if tools is None else tools
        """The tools that runs get."""

    async def before_run(
        self, *, agent: SupportsAgentRun, session: AgentSession, context: SessionContext, state: dict[str, Any]
    ) -> None:
        """Add the tools, and instructions if code can call functions."""
        run = Run(agent, [*(getattr(agent, "middleware", None) or ())])
        run.providers = context
        context.extend_middleware(self.source_id, RunTeller(run))
        context.extend_tools(self.source_id, [*self.tools])
        if (instructions := self.tools.instructions) is not None:
            context.extend_instructions(self.source_id, instructions)
