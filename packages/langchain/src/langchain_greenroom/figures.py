"""Figures for models that take images from users alone. Needs `langchain`, which `create_agent` is from."""

import base64
from collections.abc import Awaitable, Callable
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage

from greenroom import Image
from greenroom.adapters import figures_for_models
from langchain_greenroom.tool import execution_of


class ShowFigures(AgentMiddleware[Any, Any, Any]):
    """Sends the model the figures of its calls in a user's message after their results.

    That works with every model that sees, while only some take images from tools. The agent's own messages stay as
    they are. To be used with tools that have `images=False`, as is the default.
    """

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Add the figures to what the model is sent."""
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
        # Between the results of one turn's calls no other message may stand.
        if figures and not isinstance(message, ToolMessage):
            shown.append(_from_the_user(figures))
            figures = []
        shown.append(message)
        if (execution := execution_of(message)) is not None:
            figures.extend(figures_for_models(execution))
    return [*shown, _from_the_user(figures)] if figures else shown


def _from_the_user(figures: list[Image]) -> HumanMessage:
    content: list[str | dict[str, Any]] = [{"type": "text", "text": "These are the figures that the code drew."}]
    for figure in figures:
        encoded = base64.b64encode(figure.data).decode()
        content.append({"type": "image", "base64": encoded, "mime_type": figure.mime})
    return HumanMessage(content)
