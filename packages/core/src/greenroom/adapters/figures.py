"""The figures of an execution that models accept."""

from __future__ import annotations

from itertools import islice

from greenroom.models import Execution, Image

FIGURES_NOTE = "These are the figures that the code drew."
"""The text beside figures that are sent in a user message."""

MODEL_FORMATS = frozenset(("image/gif", "image/jpeg", "image/png", "image/webp"))
"""The image types that models accept. Providers reject messages with other types, and so the whole conversation."""

FIGURE_LIMIT = 3_750_000
"""The maximum size of a picture for a model, in bytes: 5 MB in base64, the strictest limit of the large providers."""

MOST_FIGURES = 10
"""The maximum number of pictures of one execution for a model: each request repeats the whole conversation."""


def figures_for_models(execution: Execution) -> tuple[Image, ...]:
    """Return the pictures of an execution that models accept; `execution.images` has them all."""
    fit = (image for image in execution.images if image.mime in MODEL_FORMATS and len(image.data) <= FIGURE_LIMIT)
    return tuple(islice(fit, MOST_FIGURES))
