"""A model that does as it is told, and a pool without sandboxes."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime
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

from greenroom import Execution, FileMissing, RemoteFile, StreamText
from greenroom.backend import OnEvent
from greenroom.testing import BareBackend

Turn: TypeAlias = str | list[FunctionCallContent]
"""What a model says: an answer, or calls of functions."""


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
    """Say these one after the other, whatever comes back."""
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


class Stage(BareBackend):
    """Plays a pool: keeps files, notes what it is asked to run, and answers what the test has set."""

    def __init__(self) -> None:
        self.answer: Execution | Exception = Execution(id="1", status="succeeded")
        self.says: tuple[str, ...] = ()
        self.endless = False
        self.executed: list[tuple[str, str]] = []
        self.started = threading.Event()
        self.interrupted = threading.Event()
        self.timeouts: list[float | None] = []
        self.deleted: list[str] = []
        self.contents: dict[str, dict[str, bytes]] = {}

    @property
    def codes(self) -> list[str]:
        return [code for _, code in self.executed]

    @property
    def identifiers(self) -> list[str]:
        return [identifier for identifier, _ in self.executed]

    async def execute(
        self, identifier: str, code: str, *, timeout: float | None, on_event: OnEvent | None
    ) -> Execution:
        self.executed.append((identifier, code))
        self.timeouts.append(timeout)
        self.started.set()
        if on_event is not None:
            for text in self.says:
                on_event(StreamText("stdout", text))
        try:
            if self.endless:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.interrupted.set()
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def upload(self, identifier: str, path: str, chunks: AsyncIterator[bytes]) -> RemoteFile:
        content = b"".join([chunk async for chunk in chunks])
        self.contents.setdefault(identifier, {})[path] = content
        return await self.file(identifier, path)

    async def download(self, identifier: str, path: str) -> AsyncGenerator[bytes, None]:
        await self.file(identifier, path)
        yield self.contents[identifier][path]

    async def files(self, identifier: str, path: str, *, recursive: bool) -> list[RemoteFile]:
        return [await self.file(identifier, name) for name in self.contents.get(identifier, {})]

    async def file(self, identifier: str, path: str) -> RemoteFile:
        if path not in (files := self.contents.get(identifier, {})):
            raise FileMissing(f"There is no file {path!r} in the session.")
        return RemoteFile(path, len(files[path]), datetime.now(UTC))

    async def delete_file(self, identifier: str, path: str) -> None:
        del self.contents[identifier][path]

    async def delete(self, identifier: str) -> None:
        self.deleted.append(identifier)
