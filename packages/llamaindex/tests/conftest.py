"""Models that say what a test has written down."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pytest
from llama_index.core.base.llms.types import ChatMessage, TextBlock, ToolCallBlock
from llama_index.core.llms import MockFunctionCallingLLM

Turn: TypeAlias = str | list[ToolCallBlock]
"""What a model says, or the tools it calls at once."""


class ScriptedModel(MockFunctionCallingLLM):
    """Takes its turns as written down, whatever it is told; keeps what it was told."""

    def __init__(self, *turns: Turn) -> None:
        super().__init__(response_generator=self._respond)
        self._turns = iter(turns)
        self._told: list[list[ChatMessage]] = []

    @property
    def told(self) -> list[ChatMessage]:
        """All messages of the last turn."""
        return self._told[-1]

    def _respond(self, messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
        self._told.append(list(messages))
        turn = next(self._turns)
        return ChatMessage(role="assistant", blocks=[TextBlock(text=turn)] if isinstance(turn, str) else turn)


@pytest.fixture
def scripted() -> Callable[..., ScriptedModel]:
    """Makes a model from its turns."""
    return ScriptedModel
