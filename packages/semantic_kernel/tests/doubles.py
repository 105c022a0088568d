"""A scripted model."""

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any, ClassVar, TypeAlias

from semantic_kernel.connectors.ai import PromptExecutionSettings
from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
from semantic_kernel.contents import (
    AuthorRole,
    ChatHistory,
    ChatMessageContent,
    FunctionCallContent,
    FunctionResultContent,
    StreamingChatMessageContent,
    StreamingTextContent,
    TextContent,
)

Turn: TypeAlias = str | list[FunctionCallContent]
"""A turn of a model: an answer, or function calls."""


def call(function: str, /, **arguments: Any) -> FunctionCallContent:
    """A model's call of one of the plugin's functions."""
    return FunctionCallContent(id=f"call-{function}", name=f"greenroom-{function}", arguments=json.dumps(arguments))


def run_what_the_user_says(history: ChatHistory) -> Turn:
    """Run the last message as code, then answer with what came back."""
    last = history.messages[-1]
    if last.role is AuthorRole.USER:
        return [call("run_python", code=last.content)]
    return "\n".join(str(item.result) for item in last.items if isinstance(item, FunctionResultContent))


def play(*turns: Turn) -> Callable[[ChatHistory], Turn]:
    """Take these turns one after the other, whatever the results are."""
    return lambda history: turns[sum(message.role is AuthorRole.ASSISTANT for message in history)]


class ScriptedModel(ChatCompletionClientBase):
    """A model whose turns come from a function of the history."""

    SUPPORTS_FUNCTION_CALLING: ClassVar[bool] = True

    script: Callable[[ChatHistory], Turn]

    async def _inner_get_chat_message_contents(
        self, chat_history: ChatHistory, settings: PromptExecutionSettings
    ) -> list[ChatMessageContent]:
        turn = self.script(chat_history)
        items = [TextContent(text=turn)] if isinstance(turn, str) else turn
        return [ChatMessageContent(AuthorRole.ASSISTANT, items=[*items])]

    async def _inner_get_streaming_chat_message_contents(
        self, chat_history: ChatHistory, settings: PromptExecutionSettings, function_invoke_attempt: int = 0
    ) -> AsyncGenerator[list[StreamingChatMessageContent], Any]:
        turn = self.script(chat_history)
        items = [StreamingTextContent(choice_index=0, text=turn)] if isinstance(turn, str) else turn
        yield [StreamingChatMessageContent(AuthorRole.ASSISTANT, choice_index=0, items=[*items])]
