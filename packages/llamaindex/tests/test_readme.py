"""The README's example works as described, with a scripted model instead of the real one."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.base.llms.types import ImageBlock, ToolCallBlock

if TYPE_CHECKING:
    from collections.abc import Callable

    from greenroom import SessionPool

    from .conftest import ScriptedModel

pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning")  # LlamaIndex's agents

README = Path(__file__).parents[1] / "README.md"
CODE = "import pandas as pd\npd.read_csv('/mnt/data/sales.csv').plot(x='month', y='sales').figure"


def test_the_example_runs(
    sandboxes: SessionPool,
    scripted: Callable[..., ScriptedModel],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    call = ToolCallBlock(tool_call_id="1", tool_name="run_python", tool_kwargs={"code": CODE})
    model = scripted([call], "The sum is 40.")

    def scripted_model(_: str) -> ScriptedModel:
        return model

    openai: Any = ModuleType("llama_index.llms.openai")
    openai.OpenAIResponses = scripted_model
    monkeypatch.setitem(sys.modules, openai.__name__, openai)
    monkeypatch.setattr("greenroom.connect", lambda: sandboxes)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    exec(example, {})
    assert capsys.readouterr().out == "The sum is 40.\n"
    assert any(isinstance(block, ImageBlock) for block in model.told[-1].blocks)
