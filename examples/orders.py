"""A question that takes a CSV and many calls of three tools, and two ways in which a model can ask them.

The models are scripted: they hold code and which tool to call next, and never an answer. As a program, it asks in each
way, five times by turns, and prints what that took. Such a model takes no time: the time is that of the tools, the
sandbox and the agent's loop.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
# (the types of create_agent and of its messages are partly unknown)

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any
from uuid import uuid4

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as make_tool

import greenroom
from greenroom import Session
from langchain_greenroom import GreenroomTool

COUNTRIES = ("Austria", "Brazil", "Chile", "Denmark", "Japan", "Kenya")
CURRENCIES = {"EUR": 1.0, "USD": 0.87, "JPY": 0.0056, "BRL": 0.16}
CUSTOMERS = range(1, 25)
ITEMS = tuple(f"item-{number:02}" for number in range(1, 13))
QUESTION = "Which three countries spent the most, in euros? customers.csv says where each customer lives."


def customers_csv() -> bytes:
    """Return the file: each customer's number and country."""
    rows = [f"{customer},{COUNTRIES[customer * 7 % len(COUNTRIES)]}" for customer in CUSTOMERS]
    return "\n".join(["customer,country", *rows, ""]).encode()


# The application's tools


def get_orders(customer: int) -> list[dict[str, Any]]:
    """Return the orders of a customer: item, quantity, and how they were sent."""
    chance = random.Random(customer)
    return [
        {
            "order": f"{customer:03}-{number:02}",
            "item": chance.choice(ITEMS),
            "quantity": chance.randint(1, 9),
            "placed": f"2026-10-{chance.randint(1, 28):02}",
            "carrier": chance.choice(("post", "courier", "collected")),
            "address": f"{chance.randint(1, 99)} Station Road",
            "status": "delivered",
        }
        for number in range(1, chance.randint(4, 7))
    ]


def get_price(item: str) -> dict[str, Any]:
    """Return the price of one piece of an item, and its currency."""
    chance = random.Random(item)
    currency = chance.choice(list(CURRENCIES))
    return {"item": item, "price": round(chance.uniform(2, 40) / CURRENCIES[currency], 2), "currency": currency}


def get_rate(currency: str) -> float:
    """Return how many euros one unit of a currency is worth."""
    return CURRENCIES[currency]


TOOLS: tuple[Callable[..., Any], ...] = (get_orders, get_price, get_rate)

# What the models write

_TOTALS = """\
sums = {}
for customer, country in customers.items():
    for item, quantity in orders[customer]:
        price, currency = prices[item]
        sums[country] = sums.get(country, 0) + quantity * price * rates[currency]
for country in sorted(sums, key=sums.get, reverse=True)[:3]:
    print(f"{country}: {sums[country]:,.2f} EUR")"""

PROGRAM = f"""\
import asyncio
import pandas as pd

customers = pd.read_csv("/mnt/data/customers.csv").set_index("customer").country.to_dict()
found = await asyncio.gather(*(get_orders(customer=customer) for customer in customers))
orders = {{c: [(o["item"], o["quantity"]) for o in each] for c, each in zip(customers, found)}}
items = sorted({{item for each in orders.values() for item, _ in each}})
prices = {{p["item"]: (p["price"], p["currency"]) for p in await asyncio.gather(*(get_price(item=i) for i in items))}}
currencies = sorted({{currency for _, currency in prices.values()}})
rates = dict(zip(currencies, await asyncio.gather(*(get_rate(currency=c) for c in currencies))))
{_TOTALS}"""

_READ = 'print(open("/mnt/data/customers.csv").read())'

Calls = list[tuple[str, dict[str, Any]]]


def one_program(results: Sequence[str]) -> Calls:
    """The next calls of a model that writes one program; none to answer with the last result."""
    return [] if results else [("run_python", {"code": PROGRAM})]


def one_call_each(results: Sequence[str]) -> Calls:
    """The next call of a model that makes one call a turn, and types what it read into its last program."""
    return _steps(results)[:1]


def calls_together(results: Sequence[str]) -> Calls:
    """The next calls of a model that makes all calls of a kind in one turn."""
    return _steps(results)


def _steps(results: Sequence[str]) -> Calls:
    if not results:
        return [("run_python", {"code": _READ})]
    rows = [line.split(",") for line in results[0].splitlines() if line[:1].isdigit()]
    customers = {int(customer): country for customer, country in rows}
    found = [json.loads(text) for text in results[1 : len(customers) + 1]]
    if missing := list(customers)[len(found) :]:
        return [("get_orders", {"customer": customer}) for customer in missing]
    orders = {
        customer: [(o["item"], o["quantity"]) for o in each] for customer, each in zip(customers, found, strict=True)
    }
    items = sorted({item for each in orders.values() for item, _ in each})
    begin = len(customers) + 1
    priced = [json.loads(text) for text in results[begin : begin + len(items)]]
    if missing := items[len(priced) :]:
        return [("get_price", {"item": item}) for item in missing]
    prices = {price["item"]: (price["price"], price["currency"]) for price in priced}
    currencies = sorted({currency for _, currency in prices.values()})
    begin += len(items)
    rated = [float(text) for text in results[begin : begin + len(currencies)]]
    if missing := currencies[len(rated) :]:
        return [("get_rate", {"currency": currency}) for currency in missing]
    if len(results) > begin + len(currencies):
        return []
    rates = dict(zip(currencies, rated, strict=True))
    typed = f"customers = {customers}\norders = {orders}\nprices = {prices}\nrates = {rates}\n{_TOTALS}"
    return [("run_python", {"code": typed})]


class ScriptedChatModel(BaseChatModel):
    """Plays a way of calling tools."""

    way: Callable[[Sequence[str]], Calls]

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Runnable[Any, AIMessage]:
        """Return this model: it knows the names of the tools."""
        return self

    def _generate(self, messages: list[BaseMessage], *_: object, **__: Any) -> ChatResult:
        results = [message.text for message in messages if isinstance(message, ToolMessage)]
        calls = [{"name": name, "args": arguments, "id": uuid4().hex} for name, arguments in self.way(results)]
        message = AIMessage("" if calls else results[-1].removeprefix("stdout:\n"), tool_calls=calls)
        return ChatResult(generations=[ChatGeneration(message=message)])

    @property
    def _llm_type(self) -> str:
        return "scripted"


@dataclass(frozen=True)
class Outcome:
    """An agent's answer, and what it took. Tokens are LangChain's approximation, of four characters each."""

    answer: str
    turns: int
    """Of the model."""
    calls: int
    """Tool calls of the model."""
    results: int
    """Tokens of tool results."""
    written: int
    """Tokens of the model's tool calls."""
    read: int
    """Tokens that the model read, over all turns: each reads all that stands before it."""
    seconds: float


async def ask(session: Session, way: Callable[[Sequence[str]], Calls], tools: Sequence[Any]) -> Outcome:
    """Ask the question of an agent whose model calls tools in a certain way."""
    agent = create_agent(ScriptedChatModel(way=way), tools=tools)
    await session.aupload(customers_csv(), "customers.csv")
    began = time.perf_counter()
    state = await agent.ainvoke({"messages": [HumanMessage(QUESTION)]}, {"recursion_limit": 1_000})
    seconds = time.perf_counter() - began
    messages: list[AnyMessage] = state["messages"]
    turns = [index for index, message in enumerate(messages) if isinstance(message, AIMessage)]
    results = [message for message in messages if isinstance(message, ToolMessage)]
    return Outcome(
        answer=messages[-1].text,
        turns=len(turns),
        calls=len(results),
        results=count_tokens_approximately(results),
        written=count_tokens_approximately([messages[index] for index in turns[:-1]]),
        read=sum(count_tokens_approximately(messages[:index]) for index in turns),
        seconds=seconds,
    )


def tools_in_code(session: Session) -> list[BaseTool]:
    """The one tool of an agent whose code calls the others."""
    return [GreenroomTool(session=session, tools=TOOLS)]


def tools_of_the_model(session: Session) -> list[BaseTool]:
    """The tools of an agent that calls each of them itself."""
    return [GreenroomTool(session=session), *map(make_tool, TOOLS)]


async def main() -> None:
    """Print docs/tools.md's table."""
    ways = {
        "one program": (one_program, tools_in_code),
        "all calls of a kind in one turn": (calls_together, tools_of_the_model),
        "one call a turn": (one_call_each, tools_of_the_model),
    }
    found: dict[str, list[Outcome]] = {name: [] for name in ways}
    async with greenroom.aconnect() as pool:
        for _ in range(5):
            for name, (way, tools) in ways.items():
                async with pool.session() as session:
                    await session.aexecute("import pandas")
                    found[name].append(await ask(session, way, tools(session)))
    print("| the model writes | turns | tool calls | tokens of results | tokens written | tokens read | time |")
    print("|---|---|---|---|---|---|---|")
    for name, outcomes in found.items():
        one, seconds = outcomes[0], median(outcome.seconds for outcome in outcomes)
        numbers = " | ".join(f"{number:,}" for number in (one.turns, one.calls, one.results, one.written, one.read))
        print(f"| {name} | {numbers} | {seconds:.2f} s |")


if __name__ == "__main__":
    asyncio.run(main())
