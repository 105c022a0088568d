"""`greenroom image`: the image of Docker's sandboxes."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from greenroom.cli.progress import can_draw
from greenroom.errors import GreenroomError
from greenroom.models import ContainerType
from greenroom.untrusted import without_controls

if TYPE_CHECKING:
    from greenroom.engines.docker.building import ImageOrder
    from greenroom.engines.docker.image import Step

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")

_DOWNLOAD = re.compile(r"Downloading ([\w.]++)-(\d[\w.]*+)[^(]*+\(([^\s()]++ [kMG]?B)\)")
_LINES_AFTER_FAILURE = 15


@app.callback()
def image() -> None:
    """The image of Docker's sandboxes."""


@app.command()
def build(
    *,
    container_type: Annotated[
        ContainerType, typer.Option(help="What runs in the sandboxes: PythonLTS or NodeLTS.")
    ] = ContainerType.PYTHON_LTS,
    base: Annotated[
        str, typer.Option(help="The base image; must have Python 3.11 or 3.12 on Linux with glibc.", metavar="IMAGE")
    ] = "python:3.12-slim",
    tag: Annotated[
        str | None,
        typer.Option(help="The new image's name.", show_default="greenroom-python:<version>, greenroom-node:<version>"),
    ] = None,
    package: Annotated[
        list[str] | None,
        typer.Option(
            "--package",
            "-p",
            help="A further package, resolved with the image's own; can be built from source. Repeatable.",
        ),
    ] = None,
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            help="A package, a requirements file, or with NodeLTS a package-lock.json, installed over the image's own "
            "packages, without building from source. Repeatable.",
            metavar="PACKAGE|FILE",
        ),
    ] = None,
    find_links: Annotated[
        Path | None,
        typer.Option(
            help="A directory of wheels to use before downloads; with PIP_NO_INDEX=1, instead of them.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    network: Annotated[str, typer.Option(help="The network of the build, as in docker build --network.")] = "host",
    cache: Annotated[bool, typer.Option(help="Use Docker's build cache.")] = True,
    host: Annotated[
        str | None, typer.Option(help="The Docker engine's URL.", show_default="DOCKER_HOST, or Docker's context")
    ] = None,
) -> None:
    """Build the image of Docker's sandboxes: the runner, and Python with the packages of Azure's pools, or Node.js.

    The build downloads packages like pip on this machine, with its settings, certificates and proxies, which do not
    become part of the image.
    """
    wheels = sorted(find_links.glob("*.whl")) if find_links else []
    if find_links and not wheels:
        raise typer.BadParameter(f"{find_links} contains no wheels.", param_hint="--find-links")
    if container_type not in {ContainerType.PYTHON_LTS, ContainerType.NODE_LTS}:
        raise typer.BadParameter(f"There is no image for {container_type}.", param_hint="--container-type")
    # These need an extra; the rest of the command line works without it.
    from greenroom.engines.docker.building import ImageOrder  # noqa: PLC0415
    from greenroom.engines.packages import Packages  # noqa: PLC0415

    try:
        packages = Packages.parse(with_ or [])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--with") from None
    order = ImageOrder(
        container_type, base, tag or "", packages, tuple(package or ()), tuple(wheels), network=network, cache=cache
    )
    asyncio.run(_build(order.checked(), host))


async def _build(order: ImageOrder, host: str | None) -> None:
    from greenroom.engines.docker import building, image  # noqa: PLC0415
    from greenroom.engines.docker.client import Daemon  # noqa: PLC0415

    console = Console()
    began = time.monotonic()
    daemon = Daemon(host)
    try:
        with _BuildDisplay(console, image.package_count(order.container_type) + len(order.further)) as display:
            async for event in building.build(daemon, order):
                display.show(event)
        size = (await daemon.client.images.inspect(order.tag))["Size"]
    finally:
        await daemon.close()
    added = f" with {order.packages.described()}" if order.packages else ""
    console.print(
        f"Built {order.tag} from {order.base}{added}: {size / 1e9:.2f} GB, in {time.monotonic() - began:.0f} s.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


class _BuildDisplay:
    """Shows progress: bars on a terminal, otherwise a line per step. After a failure, shows the last lines of that
    step."""

    def __init__(self, console: Console, packages: int) -> None:
        self._console = console
        self._draws = can_draw()
        self._lines: deque[str] = deque(maxlen=_LINES_AFTER_FAILURE)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
            disable=not self._draws,
        )
        self._steps = self._progress.add_task("Send the files", total=None)
        self._packages = self._progress.add_task("", total=packages, visible=False)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()
        if isinstance(error, GreenroomError):
            for line in self._lines:
                self._console.print(f"  {line}", style="dim", markup=False, highlight=False)

    def show(self, event: Step | str) -> None:
        if isinstance(event, str):
            self._show_line(event)
            return
        self._lines.clear()
        self._progress.update(self._steps, completed=event.number - 1, total=event.total)
        self._progress.update(self._packages, visible=False)
        if event.title:
            self._progress.update(self._steps, description=event.title)
            if not self._draws:
                self._console.print(f"[{event.number}/{event.total}] {event.title}", markup=False, highlight=False)

    def _show_line(self, line: str) -> None:
        line = without_controls(line)
        self._lines.append(line)
        if (match := _DOWNLOAD.match(line)) is not None:
            name, version, size = match.groups()
            self._progress.update(self._packages, visible=True, advance=1, description=f"{name} {version}, {size}")
        elif line.startswith("Installing collected packages"):
            self._progress.update(self._packages, description="Unpacking", completed=0)
