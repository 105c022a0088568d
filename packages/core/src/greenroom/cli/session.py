"""`greenroom session`: sessions of a pool, which persist between commands."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Generator
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from greenroom.azure.codecs import current
from greenroom.azure.codecs.problems import FILE_NOT_FOUND
from greenroom.azure.codecs.shared import LATEST, ExecuteRequest
from greenroom.cli import place as places
from greenroom.cli.output import Directory, ExitCode, exit_code_of, print_events, print_line, write
from greenroom.cli.place import Format, Output, Place, ResourceGroup, Server, Subscription
from greenroom.cli.progress import Display
from greenroom.cli.prompt import converse_in_shell
from greenroom.connecting import connect
from greenroom.errors import FileMissing, GreenroomError, InvalidRequest, ServiceFailed
from greenroom.models import DATA_DIR, ContainerType, Execution, RemoteFile, SessionInfo
from greenroom.sessions import Session, SessionPool
from greenroom.untrusted import brief, printable

app = typer.Typer(no_args_is_help=True, help="Use the sessions of a pool, on a greenroom serve or in Azure.")

Pool = Annotated[
    str,
    typer.Option("--pool", "--name", "-n", help="The pool.", metavar="NAME", autocompletion=places.complete_pool),
]
Identifier = Annotated[
    str, typer.Option("--identifier", "-i", help="The session identifier: 4 to 128 characters.", metavar="TEXT")
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout-in-seconds", "--timeout", help="The time limit; by default the pool's.", metavar="N"),
]
Filename = Annotated[str, typer.Option(help="The file in the session.", metavar="NAME")]
InDirectory = Annotated[str, typer.Option("--path", help="A directory in the session.", metavar="DIRECTORY")]
Location = Annotated[
    str | None,
    typer.Option(
        help="The pool's region in Azure; avoids looking the pool up in Azure first.",
        metavar="NAME",
        rich_help_panel="Place",
    ),
]


@app.command()
def execute(
    *,
    pool: Pool,
    identifier: Identifier,
    code: Annotated[
        str, typer.Option("--code", help="The code; @FILE to read a file, - for standard input.", metavar="TEXT")
    ],
    timeout: Timeout = None,
    save: Annotated[
        Path | None, typer.Option(help="A directory for figures and new files.", metavar="DIRECTORY")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Whether these can replace existing files.")] = False,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    session_pool_location: Location = None,
) -> None:
    """Run code in a session, which keeps its variables and files for the next command. The code's output is printed,
    and exit codes are as for greenroom run. With --output json, Azure's response is printed instead.
    """
    source = _text(code, "--code")
    with _session(Place.of(server, subscription, resource_group), pool, identifier, session_pool_location) as session:
        directory = None if save is None else Directory(save, overwrite=overwrite)
        if output is Format.JSON:
            execution = session.execute(source, timeout=timeout)
            places.print_json(_response(execution, session, source))
        else:
            execution = print_events(session.stream(source, timeout=timeout))
        if directory is not None:
            directory.save(execution, session, execution.images)
        elif execution.images and output is Format.TABLE:
            print_line("Figures are saved with --save DIRECTORY.")
    raise typer.Exit(exit_code_of(execution))


@app.command()
def shell(
    *,
    pool: Pool,
    identifier: Identifier,
    command: Annotated[
        str | None,
        typer.Option("--command", "-c", help="The command; without it, a prompt on a terminal.", metavar="TEXT"),
    ] = None,
    timeout: Timeout = None,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    session_pool_location: Location = None,
) -> None:
    """Run a shell command in a session; its exit code is the command's.

    Each command runs in a new shell: files are kept for the next one, but not variables or the working directory.
    """
    if command is None and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise InvalidRequest("Without a terminal, --command must be given.")
    with _session(Place.of(server, subscription, resource_group), pool, identifier, session_pool_location) as session:
        if command is None:
            raise typer.Exit(converse_in_shell(session, timeout))
        if output is Format.JSON:
            execution = session.shell(command, timeout=timeout)
            places.print_json(_response_of_command(execution, session))
        else:
            execution = print_events(session.stream_shell(command, timeout=timeout))
    raise typer.Exit(exit_code_of(execution))


@app.command("upload-file")
def upload_file(
    *,
    pool: Pool,
    identifier: Identifier,
    filepath: Annotated[Path, typer.Option(help="The file on this machine.", metavar="FILE")],
    directory: InDirectory = DATA_DIR,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    session_pool_location: Location = None,
) -> None:
    """Upload a file to a session."""
    with _session(Place.of(server, subscription, resource_group), pool, identifier, session_pool_location) as session:
        with Display() as display:
            uploaded = session.upload(filepath, _in(directory, filepath.name), on_progress=display.on_progress)
        _print_files([uploaded], output, current.encode_file(uploaded, LATEST))


@app.command("list-files")
def list_files(
    *,
    pool: Pool,
    identifier: Identifier,
    directory: InDirectory = DATA_DIR,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Include subdirectories.")] = False,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    session_pool_location: Location = None,
) -> None:
    """List the files in a directory of a session."""
    with _session(Place.of(server, subscription, resource_group), pool, identifier, session_pool_location) as session:
        listed = _in(directory)
        files = session.files(listed, recursive=recursive)
        _print_files(files, output, current.encode_files(files, listed, LATEST))


@app.command("show-file-content")
def show_file_content(
    *,
    pool: Pool,
    identifier: Identifier,
    filename: Filename,
    directory: InDirectory = DATA_DIR,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    session_pool_location: Location = None,
) -> None:
    """Print a file of a session: unchanged to a file or a pipe, without control sequences on a terminal."""
    place = Place.of(server, subscription, resource_group)
    with _session(place, pool, identifier, session_pool_location) as session, Display() as display:
        content = session.download(_in(directory, filename), on_progress=display.on_progress)
    if sys.stdout.isatty():
        write(sys.stdout, content.decode("utf-8", "replace"))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


@app.command("show-file-metadata")
def show_file_metadata(
    *,
    pool: Pool,
    identifier: Identifier,
    filename: Filename,
    directory: InDirectory = DATA_DIR,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    session_pool_location: Location = None,
) -> None:
    """Show the size and modification time of a file in a session."""
    with _session(Place.of(server, subscription, resource_group), pool, identifier, session_pool_location) as session:
        file = session.file(_in(directory, filename))
        _print_files([file], output, current.encode_file(file, LATEST))


@app.command("delete-file")
def delete_file(
    *,
    pool: Pool,
    identifier: Identifier,
    filename: Filename,
    directory: InDirectory = DATA_DIR,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    session_pool_location: Location = None,
) -> None:
    """Delete a file in a session."""
    with _session(Place.of(server, subscription, resource_group), pool, identifier, session_pool_location) as session:
        session.delete_file(_in(directory, filename))


@app.command("list")
def list_sessions(
    *,
    pool: Pool,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    session_pool_location: Location = None,
) -> None:
    """List the sessions of a pool that have a sandbox."""
    with _pool(Place.of(server, subscription, resource_group), pool, session_pool_location) as opened:
        found = opened.sessions()
    if output is Format.JSON:
        places.print_json(current.encode_sessions([_json_of(session) for session in found]))
    elif not found:
        print_line(f"The pool {pool!r} has no sessions.")
    else:
        titles = ["identifier", "created", "last used", "ends if unused"]
        places.print_table(titles, [_row_of(session) for session in found])


@app.command()
def show(
    *,
    pool: Pool,
    identifier: Identifier,
    output: Output = Format.TABLE,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    session_pool_location: Location = None,
) -> None:
    """Show a session, without starting it."""
    with _session(Place.of(server, subscription, resource_group), pool, identifier, session_pool_location) as session:
        found = session.info()
    if found is None:
        raise InvalidRequest(f"The pool {pool!r} has no session {identifier!r}: it has not started, or it has ended.")
    if output is Format.JSON:
        places.print_json(_json_of(found))
    else:
        names = ["identifier", "created", "last used", "ends if unused"]
        places.print_fields(dict(zip(names, _row_of(found), strict=True)))


@app.command()
def stop(
    *,
    pool: Pool,
    identifier: Identifier,
    server: Server = None,
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    session_pool_location: Location = None,
) -> None:
    """End a session and delete its variables and files. It is not an error if there is none."""
    with _session(Place.of(server, subscription, resource_group), pool, identifier, session_pool_location) as session:
        session.delete()


@contextlib.contextmanager
def _pool(place: Place, name: str, location: str | None) -> Generator[SessionPool, None, None]:
    """Open a pool by its name, without ending its sessions when it is closed."""
    url = f"{place.server}{place.pool(name)}"
    if location is not None:
        if not place.in_azure:
            raise InvalidRequest("--session-pool-location must be used with --subscription: it is an Azure region.")
        url = place.pool(name).sessions_url(location)
    try:
        with connect(url) as pool:
            try:
                yield pool
            except (FileMissing, ServiceFailed) as error:
                if pool.container_type is not ContainerType.CUSTOM_CONTAINER or not _is_missing(error):
                    raise
                raise InvalidRequest(
                    f"The containers of the pool {name!r} must support code and files themselves for this, but "
                    "returned HTTP 404. To send them other requests, use Session.request() in Python."
                ) from error
    except KeyboardInterrupt:
        print_line("Interrupted.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _is_missing(error: GreenroomError) -> bool:
    """Whether the container does not know the path of a request; a missing file would have Azure's error code."""
    return error.azure is not None and error.azure.status == 404 and error.azure.code != FILE_NOT_FOUND


@contextlib.contextmanager
def _session(place: Place, name: str, identifier: str, location: str | None) -> Generator[Session, None, None]:
    with _pool(place, name, location) as pool:
        yield pool.session(identifier)


def _text(value: str, option: str) -> str:
    """Return the text in an option, or the text that `@FILE` or `-` (standard input) names."""
    try:
        if value == "-":
            return sys.stdin.read()
        if value.startswith("@") and "\n" not in value:
            return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{option} must name a text file, not {brief(value)}: {error}.") from error
    return value


def _response_of_command(execution: Execution, session: Session) -> object:
    """Return a command's execution in the form of Azure's latest version, untruncated."""
    most = 4 * max(len(execution.stdout), len(execution.stderr))  # bytes
    return current.encode_shell_execution(execution, session.identifier, exit_code_of(execution), limit=most)


def _response(execution: Execution, session: Session, code: str) -> object:
    """Return an execution in the form of Azure's latest version."""
    if session.container_type is ContainerType.SHELL:
        return _response_of_command(execution, session)
    return current.encode_execution(execution, session.identifier, ExecuteRequest(code), LATEST)


def _in(directory: str, name: str = "") -> str:
    """Return a path in a session, from a directory that can be relative to `/mnt/data`, as in Azure."""
    start = directory if directory.startswith("/") else f"{DATA_DIR}/{directory}"
    if start == "/":  # az calls the top directory /
        start = DATA_DIR
    return name if name.startswith("/") else f"{start.rstrip('/')}/{name}".rstrip("/")


def _print_files(files: list[RemoteFile], output: Format, as_json: object) -> None:
    if output is Format.JSON:
        places.print_json(as_json)
    elif files:
        places.print_table(
            ["name", "size", "modified"],
            [
                [
                    printable(f"{file.name}/" if file.is_directory else file.name),
                    "" if file.is_directory else f"{file.size:,}",
                    _time(file.modified),
                ]
                for file in files
            ],
        )


def _json_of(session: SessionInfo) -> object:
    fields = current.encode_session(session, "")
    fields.pop("etag")
    return fields


def _row_of(session: SessionInfo) -> list[str]:
    busy = f"waits for {session.parked_calls} calls" if session.parked_calls else "busy"
    ends = busy if session.expires is None else _time(session.expires)
    return [printable(session.identifier), _time(session.created), _time(session.last_used), ends]


def _time(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"
