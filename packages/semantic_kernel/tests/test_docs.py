"""The examples of the documentation work as described, with a scripted model instead of the real one."""

import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest
from semantic_kernel.contents import ChatHistory

from .doubles import ScriptedModel, Turn, call

SUM = "import pandas as pd\nprint(pd.read_csv('/mnt/data/sales.csv').sales.sum())"
LINE = "import matplotlib.pyplot as plt\nline = plt.plot([1, 4])"
# Not print, which writes a line and its end in two pieces.
COUNT = "import sys, time\nn = sys.stdout.write('1\\n')\ntime.sleep(1)\nn = sys.stdout.write('2\\n')"


@pytest.fixture(autouse=True)
def _loggers_as_they_were() -> Iterator[None]:
    names = ("semantic_kernel.kernel", "semantic_kernel.functions.kernel_function")
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in names]
    yield
    for logger, level in levels:
        logger.setLevel(level)


# The service's settings call a method that pydantic has deprecated.
@pytest.mark.filterwarnings("ignore:The `__get_pydantic_core_schema__` method:DeprecationWarning")
async def test_every_example_of_the_page_runs(
    page: Callable[[str], Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[Turn] = [
        *([call("run_python", code=SUM)], "The sales add up to 40."),
        *([call("run_python", code=LINE)], "There it is.", "I see a line that rises."),
        *([call("run_python", code="6 * 7")], "It is 42."),
        *([call("run_python", code=COUNT)], "Two."),
    ]

    def script(_: ChatHistory) -> Turn:
        return turns.pop(0)

    def scripted_model(_: str) -> ScriptedModel:
        return ScriptedModel(ai_model_id="scripted", script=script)

    monkeypatch.setattr("semantic_kernel.connectors.ai.open_ai.OpenAIChatCompletion", scripted_model)
    await page("docs/semantic-kernel.md")
    assert turns == []
