"""The examples of the documentation work as described, with a scripted model instead of the real one."""

from __future__ import annotations

import json
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from llama_index.core.base.llms.types import ToolCallBlock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .conftest import ScriptedModel

pytestmark = [
    pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecationWarning"),  # LlamaIndex's agents
    pytest.mark.filterwarnings("ignore:is_running called from within a step:DeprecationWarning"),  # ReActAgent
]

SUM = "import pandas as pd\nprint(pd.read_csv('/mnt/data/sales.csv').sales.sum())"
LINE = "import matplotlib.pyplot as plt\nline = plt.plot([1, 4])"
DOUBLE = """
import pandas as pd
sales = pd.read_csv("sales.csv")
sales.assign(sales=2 * sales.sales).to_csv("double.csv", index=False)
"""
TOTAL = "sum(order['total'] for customer in (1, 2, 3) for order in get_orders(customer))"
# Not print, which writes a line and its end in two pieces.
COUNT = "import sys, time\nn = sys.stdout.write('1\\n')\ntime.sleep(1)\nn = sys.stdout.write('2\\n')"


def calls(tool: str, **arguments: str) -> list[ToolCallBlock]:
    return [ToolCallBlock(tool_call_id="1", tool_name=tool, tool_kwargs=arguments)]


async def test_every_example_of_the_page_runs(
    page: Callable[[str], Awaitable[None]],
    scripted: Callable[..., ScriptedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = scripted(
        *(calls("run_python", code=SUM), "The sales add up to 40."),
        *(calls("run_python", code=LINE), "There it is."),
        *(calls("run_python", code="x = 42"), "I do."),
        *(calls("run_python", code="x"), "42."),
        *(calls("run_python", code="x"), "I do not know."),
        *(calls("run_python", code="2**10"), "1024."),
        calls("upload_file", name="sales.csv"),
        *(calls("run_python", code=DOUBLE), calls("download_file", path="double.csv"), "There you are."),
        f"Thought: I add.\nAction: run_python\nAction Input: {json.dumps({'code': 'sum([1, 2, 3])'})}",
        "Thought: I know.\nAnswer: The sum is 6.",
        *("<execute>\n6 * 7\n</execute>", "It is 42."),
        *(calls("run_python", code="[get_orders(1), get_orders(2)]"), "10 and 20."),
        f"<execute>\n{TOTAL}\n</execute>",
        "The total is 60.",
        *(calls("run_python", code="open('a.txt', 'w')"), "I did not."),
        *(calls("run_python", code=COUNT), "Two."),
    )

    def scripted_model(_: str) -> ScriptedModel:
        return model

    openai: Any = ModuleType("llama_index.llms.openai")
    openai.OpenAIResponses = scripted_model
    monkeypatch.setitem(sys.modules, openai.__name__, openai)
    await page("docs/llamaindex.md")
