"""The examples of the documentation work as described, with a scripted model instead of the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

SUM = "import pandas as pd\nprint(pd.read_csv('/mnt/data/sales.csv').sales.sum())"
LINE = "import matplotlib.pyplot as plt\nline = plt.plot([1, 4])"
DOUBLE = """
import pandas as pd
sales = pd.read_csv("sales.csv")
sales.assign(sales=2 * sales.sales).to_csv("double.csv", index=False)
"""
# Not print, which writes a line and its end in two pieces.
COUNT = "import sys, time\nn = sys.stdout.write('1\\n')\ntime.sleep(1)\nn = sys.stdout.write('2\\n')"


class ScriptedModel(GenericFakeChatModel):
    disable_streaming: bool | Any = True  # the base class would stream no tool calls

    def bind_tools(self, tools: Any, **_: Any) -> Any:
        return self


def calls(tool: str, **arguments: str) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": tool, "args": arguments, "id": "1"}])


async def test_every_example_of_the_page_runs(
    page: Callable[[str], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [
        *(calls("run_python", code=SUM), "The sales add up to 40."),
        *(calls("run_python", code=LINE), "There it is."),
        calls("upload_file", name="sales.csv"),
        *(calls("run_python", code=DOUBLE), calls("download_file", path="double.csv"), "There you are."),
        *(calls("run_python", code=COUNT), "Two."),
        calls("run_python", code="1"),
        *(calls("execute", command="nproc"), "There is one."),
    ]

    def scripted_model(_: str) -> ScriptedModel:
        return ScriptedModel(messages=iter(turns))

    monkeypatch.setattr("langchain.chat_models.init_chat_model", scripted_model)
    await page("docs/langchain.md")
