"""The model of the LangChain agent."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool

from .script import Turn, next_turn
from .setting import configured_model


def chat_model() -> BaseChatModel:
    """The model of GREENROOM_DEMO_MODEL, or the scripted one.

    Raises:
        ModelUnavailableError: the setting is not valid.
        ImportError: LangChain's package for the provider is missing; the message names it.
    """
    model = configured_model()
    if model is None:
        return ScriptedChatModel()
    return init_chat_model(model.name, model_provider=model.provider)


class ScriptedChatModel(BaseChatModel):
    """Plays the script's turns as calls of the one tool that is bound to it."""

    tool: str = ""

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Runnable[Any, AIMessage]:
        """Return this model with the name of the tool to call."""
        (tool,) = tools
        assert isinstance(tool, BaseTool)
        return self.model_copy(update={"tool": tool.name})

    def _generate(self, messages: list[BaseMessage], *_: object, **__: Any) -> ChatResult:
        turn = next_turn([message.text for message in messages if isinstance(message, ToolMessage)])
        if isinstance(turn, Turn):
            call = {"name": self.tool, "args": {"code": turn.code}, "id": f"call-{uuid4().hex[:8]}"}
            reply = AIMessage(turn.thought, tool_calls=[call])
        else:
            reply = AIMessage(turn)
        return ChatResult(generations=[ChatGeneration(message=reply)])

    @property
    def _llm_type(self) -> str:
        return "scripted"
