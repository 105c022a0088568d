"""The target of the pool and session commands: a server on this machine, or Azure."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from greenroom.arm.ids import LOCAL_GROUP, LOCAL_SUBSCRIPTION, PoolId
from greenroom.cli.output import ExitCode, print_line
from greenroom.cli.progress import can_draw
from greenroom.config import sources
from greenroom.config.values import did_you_mean
from greenroom.errors import EngineUnavailable, GreenroomError, InvalidRequest
from greenroom.untrusted import one_line, without_controls

if TYPE_CHECKING:
    from greenroom.azure.management import ManagementClient

T = TypeVar("T")

LOCAL_SERVER = "http://127.0.0.1:8080"

_COMPLETION_TIMEOUT = 2.0


class Format(StrEnum):
    """The format of a command's output."""

    TABLE = "table"
    JSON = "json"


Output = Annotated[
    Format, typer.Option("--output", "-o", help="The output format; json is for programs, in Azure's form.")
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        help="The URL of a greenroom serve; by default GREENROOM_SERVER.",
        show_default=LOCAL_SERVER,
        metavar="URL",
        rich_help_panel="Place",
    ),
]
Subscription = Annotated[
    str | None,
    typer.Option(
        "--subscription",
        help="The subscription's id; without --server, the command uses Azure.",
        metavar="ID",
        rich_help_panel="Place",
    ),
]
ResourceGroup = Annotated[
    str | None,
    typer.Option(
        "--resource-group",
        "-g",
        help="The resource group of the pool.",
        show_default=f"{LOCAL_GROUP}, on a server",
        metavar="NAME",
        rich_help_panel="Place",
    ),
]


@dataclass(frozen=True, slots=True)
class Place:
    """A server, with a command's subscription and resource group."""

    server: str
    subscription: str
    resource_group: str | None
    in_azure: bool

    @classmethod
    def of(cls, server: str | None, subscription: str | None, resource_group: str | None) -> Place:
        """Return the place that the options name; by default, a server on this machine."""
        if subscription is not None and server is None:
            from greenroom.azure.codecs.management import AZURE  # noqa: PLC0415

            return cls(AZURE, subscription, resource_group, in_azure=True)
        server = server or os.environ.get(f"{sources.PREFIX}SERVER") or LOCAL_SERVER
        return cls(server.rstrip("/"), subscription or LOCAL_SUBSCRIPTION, resource_group, in_azure=False)

    @property
    def group(self) -> str:
        """
        Raises:
            InvalidRequest: none is given, and Azure has no default.
        """
        if self.resource_group is not None:
            return self.resource_group
        if self.in_azure:
            raise InvalidRequest("--resource-group must be given for a pool in Azure.")
        return LOCAL_GROUP

    def pool(self, name: str) -> PoolId:
        """Return the id of a pool by its name."""
        return PoolId(self.subscription, self.group, name).checked()

    @contextlib.asynccontextmanager
    async def client(self, *, retry_for: float = 30) -> AsyncGenerator[ManagementClient, None]:
        """Yield a client of the server.

        Raises:
            EngineUnavailable: the extra that it needs is not installed.
        """
        with needs_azure():
            from greenroom.azure.management import ManagementClient, ManagementSettings  # noqa: PLC0415

        key = os.environ.get(f"{sources.PREFIX}MANAGEMENT_KEY") or None
        client_id = os.environ.get(f"{sources.PREFIX}CLIENT_ID") or None
        settings = ManagementSettings(key=lambda: key, client_id=client_id, retry_for=retry_for)
        logging.getLogger("azure").addHandler(logging.NullHandler())  # otherwise its own messages go to standard error
        async with ManagementClient(self.server, settings) as client:
            yield client


class ListCommand(TyperCommand):
    """A command without arguments whose options accept several values, as in `az`: `--env-vars A=1 B=2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        expanded: list[str] = []
        option: str | None = None
        has_value = False
        for word in args:
            if word.startswith("-") and word != "-":
                option, has_value = (word if word in several else None), False
            elif option is not None and has_value:
                expanded.append(option)
            else:
                has_value = True
            expanded.append(word)
        return super().parse_args(ctx, expanded)


def one_of(words: type[StrEnum]) -> dict[str, Any]:
    """Return the arguments of a typer option whose values are an enum's, case-insensitive, with completion."""

    def parse(text: str) -> StrEnum:
        by_folded = {str(word).casefold(): word for word in words}
        if isinstance(text, words):
            return text
        if (word := by_folded.get(text.casefold())) is not None:
            return word
        known = [str(word) for word in words]
        hint = did_you_mean(text, known)
        raise typer.BadParameter(f"must be one of {', '.join(known)}, not {text!r:.100}.{hint}")

    def complete(incomplete: str) -> list[str]:
        return [str(word) for word in words if str(word).casefold().startswith(incomplete.casefold())]

    return {"parser": parse, "autocompletion": complete, "metavar": "|".join(words)}


def complete_pool(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of pools for shell completion; empty if they cannot be fetched quickly."""
    given = ctx.params
    place = Place.of(given.get("server"), given.get("subscription"), given.get("resource_group"))

    async def names() -> list[str]:
        async with asyncio.timeout(_COMPLETION_TIMEOUT), place.client(retry_for=0) as client:
            return [str(each.get("name")) for each in await client.list(place.subscription, place.resource_group)]

    try:
        return [name for name in asyncio.run(names()) if name.startswith(incomplete) and name.isprintable()]
    except (GreenroomError, TimeoutError):
        return []


@contextlib.contextmanager
def needs_azure() -> Generator[None, None, None]:
    """Turn a failed import into an error that names the extra."""
    try:
        yield
    except ImportError as error:
        raise EngineUnavailable(
            f"The pool and session commands need {error.name}. Install it: pip install 'greenroom[azure]'."
        ) from error


def run(work: Callable[[Callable[[str], None]], Coroutine[Any, Any, T]], doing: str) -> T:
    """Run work that can take long, and meanwhile show its state on standard error if that is a terminal.

    Args:
        work: called with a function that accepts each state.
        doing: a description, such as `Creating ci`.
    """
    try:
        if not can_draw():
            return asyncio.run(work(_ignore))
        console = Console(stderr=True, highlight=False, markup=False)
        with console.status(Text(one_line(doing))) as shown:  # rich would interpret markup in a str
            return asyncio.run(work(lambda state: shown.update(Text(one_line(f"{doing}: {state}")))))
    except KeyboardInterrupt:
        print_line("Interrupted. The operation continues; greenroom pool show prints its state.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _ignore(state: str) -> None:
    del state


def print_json(value: object) -> None:
    """Print JSON for programs."""
    print(json.dumps(value, indent=2, ensure_ascii=not _can_print_all()))


def _can_print_all() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows for people; in a pipe, each row is one line."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(_one_line(cell) for cell in row))
    _print(table)


def print_fields(fields: Mapping[str, str]) -> None:
    """Print the fields of one object, without empty ones."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if value:
            table.add_row(name, _one_line(value))
    _print(table)


def _print(table: Table) -> None:
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = 500
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def _one_line(text: str) -> str:
    return " ".join(without_controls(text).split())
