"""The notebook about Azure uses another endpoint, if one is configured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from greenroom.testing.server import serving

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "laptop_to_azure.ipynb"


@pytest.mark.usefixtures("bubblewrap")
def test_the_configured_endpoint_is_used_and_named(build: Any) -> None:
    with serving("bubblewrap:") as address:
        endpoint = f"{address}/subscriptions/1/resourceGroups/theirs/sessionPools/theirs"
        executed = build.execute(NOTEBOOK, GREENROOM_POOL="bubblewrap:", GREENROOM_NOTEBOOK_ENDPOINT=endpoint)
    shown = "".join(output.get("text", "") for cell in executed.cells for output in cell.get("outputs", []))
    assert "sessionPools/theirs" in shown
    assert shown.count("Oceania") == 2
    assert "Succeeded 42" not in shown, "nobody else's pool is asked by hand"
