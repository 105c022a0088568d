"""The model of the LlamaIndex agent."""

import json
from collections.abc import Sequence
from typing import Any

from llama_index.core.llms import (
    LLM,
    ChatMessage,
    ChatResponse,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseGen,
    CustomLLM,
    LLMMetadata,
)

from .script import Turn, next_turn
from .setting import configured_model, load

_LIVE = {
    "openai": ("OpenAI", "model"),
    "azure_openai": ("AzureOpenAI", "engine"),
    "ollama": ("Ollama", "model"),
}


def chat_model() -> LLM:
    """The model of GREENROOM_DEMO_MODEL, or the scripted one.

    Raises:
        ModelUnavailableError: the setting is not valid, or LlamaIndex's package for the provider is missing.
    """
    model = configured_model()
    if model is None:
        return ScriptedLLM()
    name, parameter = _LIVE[model.provider]
    package = f"llama-index-llms-{model.provider.replace('_', '-')}"
    return load(f"llama_index.llms.{model.provider}", name, install=package)(**{parameter: model.name})


class ScriptedLLM(CustomLLM):
    """Plays the script's turns in the words of a ReAct agent: Thought, Action, Action Input; last, Answer."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted")

    def chat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        system, *turns = [message.content or "" for message in messages]
        turn = next_turn([text for text in turns if text.startswith("Observation:")])
        if isinstance(turn, Turn):
            tool = system.partition("> Tool Name: ")[2].split()[0]
            action = f"Action: {tool}\nAction Input: {json.dumps({'code': turn.code})}"
            reply = f"Thought: {turn.thought}\n{action}"
        else:
            reply = f"Thought: I can answer now.\nAnswer: {turn}"
        return ChatResponse(message=ChatMessage(role="assistant", content=reply))

    def stream_chat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponseGen:
        yield self.chat(messages)

    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        raise NotImplementedError("The script is a chat.")

    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponseGen:
        raise NotImplementedError("The script is a chat.")
