"""A scripted model."""

# pyright: reportIncompatibleMethodOverride=false
# (the framework's layers overload get_response, each in its own way)

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from agent_framework import (
    Agent,
    BaseChatClient,
    ChatMiddlewareLayer,
    ChatResponse,
    ChatResponseUpdate,
    Content,
    FunctionInvocationLayer,
    Message,
    ResponseStream,
)

Turn: TypeAlias = str | list[Content]
"""A turn of a model: an answer, or function calls."""

Script: TypeAlias = Callable[[Sequence[Message]], Turn]


def call(function: str, /, **arguments: Any) -> Content:
    """A model's call of one of the tools."""
    return Content.from_function_call(call_id=f"call-{function}", name=function, arguments=arguments)


def results(messages: Sequence[Message]) -> list[str]:
    """What the model has read of its calls."""
    contents = [content for message in messages for content in message.contents]
    return [str(content.result) for content in contents if content.type == "function_result"]


def run_what_the_user_says(messages: Sequence[Message]) -> Turn:
    """Run the last message as code, then answer with what came back."""
    last = messages[-1]
    return [call("run_python", code=last.text)] if last.role == "user" else "\n".join(results([last]))


def play(*turns: Turn) -> Script:
    """Take these turns one after the other, whatever the results are."""
    return lambda messages: turns[sum(message.role == "assistant" for message in messages)]


class ScriptedClient(FunctionInvocationLayer[Any], ChatMiddlewareLayer[Any], BaseChatClient[Any]):
    """A scripted model: its turns come from a function of the conversation."""

    def __init__(self, script: Script = run_what_the_user_says) -> None:
        super().__init__()
        self._script = script
        self.seen: list[Message] = []
        """The conversation of the latest turn, as the model gets it."""
        self.tools: list[Any] = []
        """The tools of the latest turn."""

    def _inner_get_response(
        self, *, messages: Sequence[Message], stream: bool, options: Mapping[str, Any], **_: Any
    ) -> Awaitable[ChatResponse[Any]] | ResponseStream[ChatResponseUpdate, ChatResponse[Any]]:
        self.seen = [*messages]
        self.tools = [*options.get("tools", ())]
        turn = self._script(messages)
        contents = [Content.from_text(turn)] if isinstance(turn, str) else turn

        async def respond() -> ChatResponse[Any]:
            return ChatResponse(messages=[Message("assistant", contents)])

        async def update() -> AsyncIterator[ChatResponseUpdate]:
            yield ChatResponseUpdate(contents=contents, role="assistant")

        return self._build_response_stream(update()) if stream else respond()


def agent_with(
    tools: object,
    script: Script = run_what_the_user_says,
    *,
    client: ScriptedClient | None = None,
    **options: Any,
) -> Agent[Any]:
    """An agent with these tools; by default its scripted model runs the user's text as code."""
    return Agent(client or ScriptedClient(script), name="Analyst", tools=tools, **options)
