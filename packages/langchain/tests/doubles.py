"""Doubles for the tests of agents."""

from __future__ import annotations

from typing import Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult


class ScriptedModel(GenericFakeChatModel):
    """Plays the turn that the conversation has come to, so that runs at the same time have all of them."""

    messages: Any = None
    turns: list[AIMessage]
    disable_streaming: bool | Any = True

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        turn = self.turns[sum(isinstance(message, AIMessage) for message in messages)]
        return ChatResult(generations=[ChatGeneration(message=turn.model_copy(deep=True))])
