"""Greenroom for Microsoft Agent Framework: tools that run a model's Python in isolated, stateful sessions."""

from greenroom_agent_framework.figures import show_figures
from greenroom_agent_framework.provider import GreenroomProvider
from greenroom_agent_framework.results import downloads, execution_of, executions
from greenroom_agent_framework.runs import GreenroomMiddleware
from greenroom_agent_framework.skills import GreenroomScriptRunner
from greenroom_agent_framework.tools import GreenroomTools

__all__ = [
    "GreenroomMiddleware",
    "GreenroomProvider",
    "GreenroomScriptRunner",
    "GreenroomTools",
    "downloads",
    "execution_of",
    "executions",
    "show_figures",
]
