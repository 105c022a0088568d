"""The model of the Microsoft Agent Framework agent."""

# pyright: reportIncompatibleMethodOverride=false
# (the framework's layers overload get_response, each in its own way)

import os
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from agent_framework import (
    BaseChatClient,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    Message,
    ResponseStream,
)

from .script import Turn, next_turn
from .setting import configured_model, load

_LIVE = {
    "openai": ("openai", "OpenAIChatCompletionClient"),
    "azure_openai": ("openai", "OpenAIChatCompletionClient"),
    "ollama": ("ollama", "OllamaChatClient"),
}


def chat_model() -> BaseChatClient[Any]:
    """The model of GREENROOM_DEMO_MODEL, or the scripted one.

    Raises:
        ModelUnavailableError: the setting is not valid, or the framework's package for the provider is missing.
    """
    model = configured_model()
    if model is None:
        return ScriptedChatClient()
    module, name = _LIVE[model.provider]
    # One client serves OpenAI and Azure; the endpoint decides.
    where = {"azure_endpoint": os.environ.get("AZURE_OPENAI_ENDPOINT")} if model.provider == "azure_openai" else {}
    client = load(f"agent_framework.{module}", name, install=f"agent-framework-{module}")
    return client(model=model.name, **where)


class ScriptedChatClient(FunctionInvocationLayer[Any], BaseChatClient[Any]):
    """Plays the script's turns as calls of the tool that runs Python."""

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **_: Any
    ) -> Awaitable[ChatResponse[Any]] | ResponseStream[ChatResponseUpdate, ChatResponse[Any]]:
        contents = [content for message in messages for content in message.contents]
        turn = next_turn([str(content.result) for content in contents if content.type == "function_result"])
        if isinstance(turn, Turn):
            call = Content.from_function_call(f"call-{uuid4().hex[:8]}", "run_python", arguments={"code": turn.code})
            reply = [Content.from_text(turn.thought), call]
        else:
            reply = [Content.from_text(turn)]

        async def respond() -> ChatResponse[Any]:
            return ChatResponse(messages=[Message("assistant", reply)])

        async def update() -> AsyncIterator[ChatResponseUpdate]:
            yield ChatResponseUpdate(contents=reply, role="assistant")

        return self._build_response_stream(update()) if stream else respond()
