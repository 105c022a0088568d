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


MAILS = """
for customer in (1, 2):
    total = sum(order["total"] for order in get_orders(customer=customer))
    try:
        print(send_mail(to=f"customer {customer}", text=str(total)))
    except ToolError as error:
        print(error)
"""
ORDERS = 'sum(order["total"] for order in get_orders(customer=3))'


async def test_every_example_of_the_page_about_approval_runs(
    page: Callable[[str], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [
        *(calls("run_python", code=MAILS), "Done."),
        *(calls("run_python", code=ORDERS), calls("run_python", code="import os; os.listdir()"), "Done."),
    ]

    def scripted_model(_: str) -> ScriptedModel:
        return ScriptedModel(messages=iter(turns))

    monkeypatch.setattr("langchain.chat_models.init_chat_model", scripted_model)
    await page("docs/langchain-approval.md")


async def test_every_example_of_the_page_runs(
    page: Callable[[str], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [
        *(calls("run_python", code=SUM), "The sales add up to 40."),
        *(calls("run_python", code="6 * 7"), "It is 42."),
        *(calls("run_python", code=LINE), "There it is."),
        calls("upload_file", name="sales.csv"),
        *(calls("run_python", code=DOUBLE), calls("download_file", path="double.csv"), "There you are."),
        *(calls("run_python", code=COUNT), "Two."),
        *(calls("execute", command="nproc"), "There is one."),
    ]

    def scripted_model(_: str) -> ScriptedModel:
        return ScriptedModel(messages=iter(turns))

    monkeypatch.setattr("langchain.chat_models.init_chat_model", scripted_model)
    await page("docs/langchain.md")
