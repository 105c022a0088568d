"""`GREENROOM_DEMO_MODEL`: the model that the examples use."""

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

VARIABLE = "GREENROOM_DEMO_MODEL"

PROVIDERS = ("openai", "azure_openai", "ollama")


class ModelUnavailableError(Exception):
    """The model cannot be used; the message says what to change or install."""


@dataclass(frozen=True)
class Model:
    """A model: its provider and its name there."""

    provider: str
    name: str
    """For `azure_openai`, the name of the deployment."""

    def __str__(self) -> str:
        return f"{self.provider}:{self.name}"


def configured_model(environment: Mapping[str, str] = os.environ) -> Model | None:
    """The model that the environment names, such as `openai:gpt-5-mini`, or `None` if it names none.

    Raises:
        ModelUnavailableError: the value does not have the form PROVIDER:NAME.
    """
    value = environment.get(VARIABLE, "").strip()
    if not value:
        return None
    provider, _, name = value.partition(":")
    if provider not in PROVIDERS or not name:
        raise ModelUnavailableError(
            f"{VARIABLE}={value!r} is not valid: it takes PROVIDER:NAME, such as openai:gpt-5-mini, "
            f"with one of these providers: {', '.join(PROVIDERS)}."
        )
    return Model(provider, name)


def load(module: str, name: str, *, install: str) -> Callable[..., Any]:
    """The class `name` of a framework's integration with a provider.

    Raises:
        ModelUnavailableError: the integration is not installed; the message says how to install it.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ModelUnavailableError(
            f"The model of {VARIABLE} needs the package {install}, which is missing here ({error}). "
            f"Install it: pip install '{install}'"
        ) from error
