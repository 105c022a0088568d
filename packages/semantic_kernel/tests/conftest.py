"""Agents over scripted models."""

from collections.abc import Callable

import pytest
from semantic_kernel.agents import ChatCompletionAgent

from .doubles import ScriptedModel, run_what_the_user_says


@pytest.fixture
def agent_with() -> Callable[..., ChatCompletionAgent]:
    """Makes an agent with a plugin; by default its model runs the user's text as code."""

    def make(plugin: object, model: ScriptedModel | None = None) -> ChatCompletionAgent:
        model = model or ScriptedModel(ai_model_id="scripted", script=run_what_the_user_says)
        return ChatCompletionAgent(name="Analyst", service=model, plugins=[plugin])

    return make
