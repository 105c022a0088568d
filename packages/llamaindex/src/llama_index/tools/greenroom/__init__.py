"""Greenroom for LlamaIndex: a tool spec that runs Python in isolated, stateful sessions."""

from greenroom.adapters import Download
from llama_index.tools.greenroom.approval import CodeApprovalRequired, CodeDecision
from llama_index.tools.greenroom.base import GreenroomToolSpec
from llama_index.tools.greenroom.functions import InnerToolCall, InnerToolCallResult
from llama_index.tools.greenroom.results import CodeOutput, ModelBlocks, execution_of
from llama_index.tools.greenroom.sessions import CONVERSATION_KEY

__all__ = [
    "CONVERSATION_KEY",
    "CodeApprovalRequired",
    "CodeDecision",
    "CodeOutput",
    "Download",
    "GreenroomToolSpec",
    "InnerToolCall",
    "InnerToolCallResult",
    "ModelBlocks",
    "execution_of",
]
