"""Figures for services that accept pictures only from users."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from copy import copy

from agent_framework import ChatContext, Content, Message, chat_middleware

from greenroom.adapters import FIGURES_NOTE


@chat_middleware
async def show_figures(context: ChatContext, call_next: Callable[[], Awaitable[None]]) -> None:
    """Send the pictures in function results to the model, in a user message after the results.

    Use it with chat clients that would otherwise drop them, such as those for OpenAI's Chat Completions and Ollama. The
    conversation itself is not changed::

        agent = Agent(client, tools=GreenroomTools(pool=pool), middleware=[show_figures])
    """
    context.messages = [*_with_figures(context.messages)]
    await call_next()


def _with_figures(messages: Sequence[Message]) -> Iterator[Message]:
    figures: list[Content] = []
    for message in messages:
        # The results of one turn's calls must follow each other, with no other message between them.
        if figures and message.role != "tool":
            yield _from_the_user(figures)
            figures = []
        found = [item for content in message.contents for item in _pictures(content)]
        figures += found
        yield _without_pictures(message) if found else message
    if figures:
        yield _from_the_user(figures)


def _pictures(content: Content) -> list[Content]:
    return [item for item in content.items or () if _is_picture(item)] if content.type == "function_result" else []


def _without_pictures(message: Message) -> Message:
    message = copy(message)
    message.contents = [copy(content) for content in message.contents]
    for content in message.contents:
        if _pictures(content):
            content.items = [item for item in content.items or () if not _is_picture(item)]
    return message


def _is_picture(item: Content) -> bool:
    return item.type == "data" and item.has_top_level_media_type("image")


def _from_the_user(figures: list[Content]) -> Message:
    return Message("user", [FIGURES_NOTE, *figures])
