"""Functions of the application that code in a session can call: their definitions, and the calls of one execution."""

from greenroom.tools.calls import RunningCalls, ToolAnswer, Toolbox, ToolCall
from greenroom.tools.definitions import Tool, ToolLimits
from greenroom.tools.pending import CallDeferred, CallLog, MadeCall, PendingCalls, TakenCalls, current_call
from greenroom.tools.stubs import ToolParameter, ToolStub

__all__ = [
    "CallDeferred",
    "CallLog",
    "MadeCall",
    "PendingCalls",
    "RunningCalls",
    "TakenCalls",
    "Tool",
    "ToolAnswer",
    "ToolCall",
    "ToolLimits",
    "ToolParameter",
    "ToolStub",
    "Toolbox",
    "current_call",
]
