"""`greenroom serve` and `greenroom api-key`: Azure's HTTP API on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from greenroom.cli.figures import PricesFile
from greenroom.cli.progress import Display
from greenroom.errors import EngineUnavailable, InvalidRequest

if TYPE_CHECKING:
    from greenroom.server.run import Announcement


def serve(
    *,
    pool: Annotated[
        str | None, typer.Option(help='Where code runs, such as "docker:".', envvar="GREENROOM_POOL", metavar="URL")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="The engine for created pools that do not name one.", metavar="URL")
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(
            help="The file that stores created pools, or :memory:.",
            show_default="in the user's data directory; memory with --pool or --config",
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help=r"A TOML file with \[server] and, for several pools, \[pools.NAME].")
    ] = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="The port; 0 for any free one.", show_default="8080")] = None,
    strict: Annotated[
        bool | None, typer.Option("--strict", help="Reject requests that Azure's specification does not allow.")
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="Digests of the API keys; see greenroom api-key.")] = None,
    management_key_file: Annotated[
        Path | None, typer.Option(help="Digests of the keys that can create, change and delete pools.")
    ] = None,
    metrics_key_file: Annotated[Path | None, typer.Option(help="Digests of keys that can only read /metrics.")] = None,
    ui: Annotated[
        bool | None,
        typer.Option("--ui/--no-ui", help="Show the pages at /ui.", show_default="only on a loopback address"),
    ] = None,
    prices: PricesFile = None,
    entra_tenant: Annotated[
        str | None, typer.Option(help="Accept tokens of this Microsoft Entra ID tenant.", metavar="GUID")
    ] = None,
    entra_object_id: Annotated[
        list[str] | None, typer.Option(help="Accept only these callers of the tenant. Repeatable.", metavar="GUID")
    ] = None,
    entra_audience: Annotated[
        list[str] | None, typer.Option(help="The accepted audience of tokens. Repeatable.", metavar="URL")
    ] = None,
    certfile: Annotated[Path | None, typer.Option(help="A TLS certificate, in PEM.")] = None,
    keyfile: Annotated[Path | None, typer.Option(help="Its key.")] = None,
    tls_self_signed: Annotated[
        bool | None, typer.Option("--tls-self-signed", help="Create a certificate for development.")
    ] = None,
    tls_directory: Annotated[
        Path | None, typer.Option(help="The directory of that certificate.", show_default="~/.config/greenroom/tls")
    ] = None,
    allowed_host: Annotated[
        list[str] | None, typer.Option(help="An additional host name of a server without authentication. Repeatable.")
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(help="The URL that clients use if the server is behind a proxy.", metavar="URL"),
    ] = None,
    shutdown_grace: Annotated[
        float | None, typer.Option(help="Seconds for running executions to end at shutdown.", show_default="30")
    ] = None,
) -> None:
    """Serve Azure's dynamic sessions API from sandboxes on this machine, and manage its session pools.

    Without --pool and --config, created pools are stored when the server ends, and opened again at the next start.

    These options take precedence over the configuration file. The access log is written to standard output, one line of
    JSON per request.
    """
    with _extra():
        from greenroom.server import run  # noqa: PLC0415
        from greenroom.server.settings import ServerSettings, read_file  # noqa: PLC0415
    from_file, pools = read_file(config) if config is not None else ({}, {})
    if pool is not None and pools:
        raise InvalidRequest(f"The option --pool={pool!r} cannot be combined with the pools in {str(config)!r}.")
    entra = {"tenant": entra_tenant, "object_ids": entra_object_id, "audiences": entra_audience}
    if given_entra := {name: value for name, value in entra.items() if value}:
        from_file["entra"] = {**from_file.get("entra", {}), **given_entra}
    given: dict[str, Any] = {
        "host": host,
        "port": port,
        "strict": strict,
        "api_key_file": api_key_file,
        "management_key_file": management_key_file,
        "metrics_key_file": metrics_key_file,
        "ui": ui,
        "prices": prices,
        "engine": engine,
        "state": state,
        "certfile": certfile,
        "keyfile": keyfile,
        "tls_self_signed": tls_self_signed,
        "tls_directory": tls_directory,
        "allowed_hosts": allowed_host,
        "public_url": public_url,
        "shutdown_grace": shutdown_grace,
    }
    if pool is None and config is None:
        from_file["state"] = run.default_path()
    options = {**from_file, **{name: value for name, value in given.items() if value is not None}}
    _log_to_standard_output()
    with Display("Opening the pools") as display:

        def announce(server: Announcement) -> None:
            display.close()
            _announce(server)

        declared = pools or {"default": {"url": pool}}
        asyncio.run(run.serve(ServerSettings.parse(options), declared, announce, report=display.show))


def api_key(
    file: Annotated[Path, typer.Argument(help="The key file, created if missing.")],
    *,
    name: Annotated[str, typer.Option(help="The caller's name, for the access log.")],
) -> None:
    """Create a key for `greenroom serve`: its digest is added to the file, and the key is printed once."""
    with _extra():
        from greenroom.server.access.keys import new_key  # noqa: PLC0415

    print(new_key(file, name))


@contextlib.contextmanager
def _extra() -> Generator[None, None, None]:
    """Turn a failed import into an error that names the extra."""
    try:
        yield
    except ImportError as error:
        raise EngineUnavailable(
            f"The server needs {error.name}. Install it: pip install 'greenroom[server]'."
        ) from error


def _announce(server: Announcement) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"Serving Azure's dynamic sessions API at {server.url}")
    if not server.guarded:
        console.print("Without authentication: every program on this machine can use it.")
    if server.exposed:
        console.print(
            "Without TLS: keys, tokens and code are sent unencrypted unless a proxy before the server encrypts them."
        )
    if server.state.name == ":memory:":
        console.print("Created pools end with the server; --state FILE would keep them.")
    else:
        console.print(f"Created pools are kept in {server.state}")
    if server.ui is not None:
        console.print(f"Web pages: {server.ui}")
    if server.authority is not None:
        console.print(f"Clients trust its certificate with SSL_CERT_FILE={server.authority}")


def _log_to_standard_output() -> None:
    from greenroom.server.transport.access_log import LineHandler  # noqa: PLC0415  of the extra

    access = logging.getLogger("greenroom.server.access")
    access.setLevel(logging.INFO)
    access.propagate = False
    access.addHandler(LineHandler(1))
