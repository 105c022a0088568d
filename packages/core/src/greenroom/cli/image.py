"""`greenroom image`: the image of Docker's sandboxes."""

from __future__ import annotations

import asyncio
import re
import tempfile
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
    from greenroom.engines.docker.image import Step

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")

_DOWNLOAD = re.compile(r"Downloading ([\w.]++)-(\d[\w.]*+)[^(]*+\(([^\s()]++ [kMG]?B)\)")
_SPOOLED = 16 << 20
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
        str, typer.Option(help="The base image: Python 3.11 or 3.12 on Linux with glibc.", metavar="IMAGE")
    ] = "python:3.12-slim",
    tag: Annotated[
        str | None,
        typer.Option(help="The new image's name.", show_default="greenroom-python:<version>, greenroom-node:<version>"),
    ] = None,
    package: Annotated[
        list[str] | None, typer.Option("--package", "-p", help="A further package, as pip reads it. Repeatable.")
    ] = None,
    find_links: Annotated[
        Path | None,
        typer.Option(
            help="A directory with wheels that are used before downloads; with PIP_NO_INDEX=1, instead of them.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    network: Annotated[str, typer.Option(help="The network of the build, in Docker's words.")] = "host",
    cache: Annotated[bool, typer.Option(help="Take steps that were done before from Docker's cache.")] = True,
    host: Annotated[
        str | None, typer.Option(help="The Docker engine's URL.", show_default="DOCKER_HOST, or Docker's context")
    ] = None,
) -> None:
    """Make the image of Docker's sandboxes: the runner, and Python with the packages of Azure's pools, or Node.js.

    The build reaches packages as pip does on this machine: its settings, certificates and proxies are used, and
    do not become part of the image.
    """
    wheels = sorted(find_links.glob("*.whl")) if find_links else []
    if find_links and not wheels:
        raise typer.BadParameter(f"{find_links} has no wheels.", param_hint="--find-links")
    if container_type not in {ContainerType.PYTHON_LTS, ContainerType.NODE_LTS}:
        raise typer.BadParameter(f"There is no image for {container_type}.", param_hint="--container-type")
    asyncio.run(_build(container_type, base, tag, package or [], wheels, network=network, cache=cache, host=host))


async def _build(
    container_type: ContainerType,
    base: str,
    tag: str | None,
    packages: list[str],
    wheels: list[Path],
    *,
    network: str,
    cache: bool,
    host: str | None,
) -> None:
    # These need an extra; without it, the rest of the command line works.
    from greenroom.engines.docker import image  # noqa: PLC0415
    from greenroom.engines.docker.client import Daemon  # noqa: PLC0415

    tag = tag or image.default_image(container_type)
    console = Console()
    began = time.monotonic()
    daemon = Daemon(host)
    try:
        with tempfile.SpooledTemporaryFile(_SPOOLED) as context:
            image.write_context(context, packages=packages, wheels=wheels, container_type=container_type)
            context.seek(0)
            with _BuildDisplay(console, image.package_count(container_type) + len(packages)) as display:
                async for event in image.build(
                    daemon,
                    context,
                    base=base,
                    tag=tag,
                    network=network,
                    cache=cache,
                    container_type=container_type,
                ):
                    display.show(event)
        size = (await daemon.client.images.inspect(tag))["Size"]
    finally:
        await daemon.close()
    console.print(
        f"Built {tag} from {base}: {size / 1e9:.2f} GB, in {time.monotonic() - began:.0f} s.", highlight=False
    )


class _BuildDisplay:
    """On a terminal, bars; elsewhere, a line for each step. After a failure, the last lines of the failed step."""

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
        self._steps = self._progress.add_task("Hand over the files", total=None)
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
