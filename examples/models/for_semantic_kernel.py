"""The model of the Semantic Kernel agent."""

from typing import ClassVar
from uuid import uuid4

from semantic_kernel.connectors.ai.chat_completion_client_base import ChatCompletionClientBase
from semantic_kernel.connectors.ai.prompt_execution_settings import PromptExecutionSettings
from semantic_kernel.contents import (
    AuthorRole,
    ChatHistory,
    ChatMessageContent,
    FunctionCallContent,
    FunctionResultContent,
    TextContent,
)

from .script import Turn, next_turn
from .setting import configured_model, load

_LIVE = {
    "openai": ("open_ai", "OpenAIChatCompletion", "ai_model_id"),
    "azure_openai": ("open_ai", "AzureChatCompletion", "deployment_name"),
    "ollama": ("ollama", "OllamaChatCompletion", "ai_model_id"),
}


def chat_model() -> ChatCompletionClientBase:
    """The model of GREENROOM_DEMO_MODEL, or the scripted one.

    Raises:
        ModelUnavailableError: the setting is not valid, or the extra for the provider is missing.
    """
    model = configured_model()
    if model is None:
        return ScriptedChatCompletion(ai_model_id="scripted")
    connector, name, parameter = _LIVE[model.provider]
    # OpenAI's packages are always there, so only Ollama's can be missing.
    service = load(f"semantic_kernel.connectors.ai.{connector}", name, install="semantic-kernel[ollama]")
    return service(**{parameter: model.name})


class ScriptedChatCompletion(ChatCompletionClientBase):
    """Plays the script's turns as calls of the plugin's function."""

    SUPPORTS_FUNCTION_CALLING: ClassVar[bool] = True

    async def _inner_get_chat_message_contents(
        self, chat_history: ChatHistory, settings: PromptExecutionSettings
    ) -> list[ChatMessageContent]:
        items = [item for message in chat_history for item in message.items]
        turn = next_turn([str(item.result) for item in items if isinstance(item, FunctionResultContent)])
        if isinstance(turn, Turn):
            call = FunctionCallContent(
                id=f"call-{uuid4().hex[:8]}", name="greenroom-run_python", arguments={"code": turn.code}
            )
            return [ChatMessageContent(AuthorRole.ASSISTANT, items=[TextContent(text=turn.thought), call])]
        return [ChatMessageContent(AuthorRole.ASSISTANT, content=turn)]
