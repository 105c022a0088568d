"""A pool without sandboxes, one with them, and agents over scripted models."""

import os
from collections.abc import Callable, Iterator

import pytest
from semantic_kernel.agents import ChatCompletionAgent

import greenroom
from greenroom import SessionPool

from .doubles import ScriptedModel, Stage, run_what_the_user_says


@pytest.fixture
def stage() -> Stage:
    """What the pool plays."""
    return Stage()


@pytest.fixture
def pool(stage: Stage) -> Iterator[SessionPool]:
    """A pool without sandboxes."""

    async def make() -> Stage:
        return stage

    with SessionPool(make, "stage") as pool:
        yield pool


@pytest.fixture(scope="session")
def sandboxes() -> Iterator[SessionPool]:
    """A pool of real sandboxes."""
    try:
        pool = greenroom.connect("bubblewrap:", ready_session_instances=0)
    except greenroom.EngineUnavailable as error:
        if "bubblewrap" in os.environ.get("GREENROOM_REQUIRE_ENGINES", ""):
            raise
        pytest.skip(f"needs the bubblewrap engine: {error}")
    with pool:
        yield pool


@pytest.fixture
def agent_with() -> Callable[..., ChatCompletionAgent]:
    """Makes an agent with a plugin; unless told otherwise its model runs what the user says."""

    def make(plugin: object, model: ScriptedModel | None = None) -> ChatCompletionAgent:
        model = model or ScriptedModel(ai_model_id="scripted", script=run_what_the_user_says)
        return ChatCompletionAgent(name="Analyst", service=model, plugins=[plugin])

    return make
