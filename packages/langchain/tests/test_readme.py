"""The README's example works as described, with a scripted model instead of the real one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

if TYPE_CHECKING:
    import pytest

    from greenroom import SessionPool

README = Path(__file__).parents[1] / "README.md"
CODE = "import pandas as pd\nax = pd.read_csv('/mnt/data/sales.csv').plot(x='month', y='sales')"


class ScriptedModel(GenericFakeChatModel):
    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def test_the_example_runs(
    sandboxes: SessionPool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = AIMessage("", tool_calls=[{"name": "run_python", "args": {"code": CODE}, "id": "1"}])

    def scripted_model(_: str) -> ScriptedModel:
        return ScriptedModel(messages=iter([call, "Their sum is 40."]))

    monkeypatch.setattr("langchain.agents.factory.init_chat_model", scripted_model)
    monkeypatch.setattr("greenroom.connect", lambda: sandboxes)
    monkeypatch.setattr(sandboxes, "close", lambda: None)
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    state: dict[str, Any] = {}
    exec(example, state)
    assert capsys.readouterr().out == "Their sum is 40.\n"
    _, _, result, _ = state["state"]["messages"]
    assert result.status == "success"
    assert len(result.artifact.images) == 1
