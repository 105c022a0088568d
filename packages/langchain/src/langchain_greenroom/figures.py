"""Figures for models that accept images only from users. Needs `langchain`, as `create_agent` does."""

from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage

from greenroom import Image
from greenroom.adapters import FIGURES_NOTE, figures_for_models
from langchain_greenroom.tool import execution_of, image_block


class ShowFigures(AgentMiddleware[Any, Any, Any]):
    """Sends the model the figures of its calls, in a user message after their results.

    This works with every model that accepts images; only some accept images from tools. The agent's own messages are
    not changed. Use it with tools that have `images=False`, the default.
    """

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Add the figures to the messages for the model."""
        return handler(request.override(messages=_with_figures(request.messages)))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """As `wrap_model_call`."""
        return await handler(request.override(messages=_with_figures(request.messages)))


def _with_figures(messages: list[AnyMessage]) -> list[AnyMessage]:
    shown: list[AnyMessage] = []
    figures: list[Image] = []
    for message in messages:
        # The results of one turn's calls must follow each other, with no other message between them.
        if figures and not isinstance(message, ToolMessage):
            shown.append(_from_the_user(figures))
            figures = []
        shown.append(message)
        if (execution := execution_of(message)) is not None:
            figures.extend(figures_for_models(execution))
    return [*shown, _from_the_user(figures)] if figures else shown


def _from_the_user(figures: list[Image]) -> HumanMessage:
    return HumanMessage([{"type": "text", "text": FIGURES_NOTE}, *map(image_block, figures)])
