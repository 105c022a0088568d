"""Operations on the files of a session."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from greenroom.azure.codecs.problems import PATH_INVALID, BadRequest
from greenroom.azure.codecs.shared import LATEST, session_path, upload_path
from greenroom.errors import InvalidRequest
from greenroom.models import RemoteFile
from greenroom.server.responses import CLOSE, json_response, no_room, too_large
from greenroom.server.routes.target import Target
from greenroom.server.transport.multipart import file_parts
from greenroom.sessions.transfers import at_most

_FRAME = 1 << 20  # bytes that an upload can have in addition to its file
_PIECES = 768 * 1024  # bytes that an upload takes in memory, approximately
_CHUNKS = 4  # of a download in memory: the one that was read, the one being sent, and two that are on their way


def hold_upload(target: Target) -> None:
    """Reserve memory for an upload.

    Raises:
        RequestRefused: other requests use too much.
    """
    if not target.held.hold(_PIECES):
        raise no_room("The server's memory for requests is too full to receive this upload. Try again.", CLOSE)


def hold_download(target: Target, chunk: int) -> None:
    """Reserve memory for a download in chunks of this size in bytes.

    Raises:
        RequestRefused: as with `hold_upload`.
    """
    if not target.held.hold(_CHUNKS * chunk):
        raise no_room("The server's memory for requests is too full to send this file. Try again.")


async def list_files(request: Request, target: Target) -> Response:
    """`GET files`."""
    del request
    directory = _directory(target)
    recursive = not target.legacy and _flag(target, "recursive")
    if recursive:
        target.require(since=LATEST)
    files = await target.pool.backend.files(target.identifier, directory, recursive=recursive)
    return json_response(target.codec.encode_files(files, directory, target.version))


async def upload_files(request: Request, target: Target) -> Response:
    """`POST files/upload` and `POST files`: write each part `file` of a multipart body as it arrives."""
    identifier, directory, limit = target.identifier, _directory(target), target.settings.max_upload
    hold_upload(target)
    uploaded: list[RemoteFile] = []
    body = body_of(request, limit, around=_FRAME)
    async with contextlib.aclosing(
        file_parts(request.headers.get("content-type"), body, strict=target.strict)
    ) as parts:
        async for part in parts:
            with _path_errors():
                path = upload_path(part.filename, directory)
            uploaded.append(await target.pool.backend.upload(identifier, path, at_most(limit, part.content, path)))
    if target.legacy:
        return json_response(target.codec.encode_files(uploaded, "", target.version))
    if len(uploaded) > 1:
        return json_response(target.codec.encode_files(uploaded, directory, target.version))
    return json_response(target.codec.encode_uploaded(uploaded[0], target.version))


async def get_file(request: Request, target: Target) -> Response:
    """`GET files/{name}`."""
    file = await target.pool.backend.file(target.identifier, _path(request, target))
    return json_response(target.codec.encode_file(file, target.version))


async def delete_file(request: Request, target: Target) -> Response:
    """`DELETE files/{name}`."""
    await target.pool.backend.delete_file(target.identifier, _path(request, target))
    return Response(status_code=204)


async def download_file(request: Request, target: Target) -> Response:
    """`GET files/content/{name}` and `GET files/{name}/content`."""
    chunks = target.pool.backend.download(target.identifier, _path(request, target))
    try:
        first = await anext(chunks, b"")
        second = await anext(chunks, None)
        if second is not None:
            hold_download(target, max(len(first), len(second)))
    except BaseException:
        await chunks.aclose()
        raise
    if second is None:
        return Response(first, media_type="application/octet-stream")
    return _Download(_joined([second, first], chunks))


class _Download(StreamingResponse):
    """A file that is sent as it is read, as long as the client receives it."""

    def __init__(self, content: AsyncGenerator[bytes, None]) -> None:
        super().__init__(content, media_type="application/octet-stream")
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with contextlib.aclosing(self._content):
            await super().__call__(scope, receive, send)


async def _joined(begun: list[bytes], rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Yield the pieces that have been read, which are kept in reverse, then the others."""
    async with contextlib.aclosing(rest):
        while begun:
            yield begun.pop()  # not kept while others are sent
        async for chunk in rest:
            yield chunk


def _directory(target: Target) -> str:
    """Return the query's `path`; the legacy contract has no directories."""
    path = "" if target.legacy else target.query.get("path", "")
    if target.strict and "." in path:
        raise BadRequest(
            f"The file path {path!r:.200} is invalid because 'path cannot contain any reserved file path characters'.",
            code=PATH_INVALID,
            target="path",
        )
    with _path_errors():
        return session_path(path)


def _flag(target: Target, name: str) -> bool:
    value = target.query.get(name, "false")
    if value.lower() not in {"true", "false"}:
        raise BadRequest(f"{name!r} must be true or false, not {value!r:.50}.", target=name)
    return value.lower() == "true"


def _path(request: Request, target: Target) -> str:
    with _path_errors():
        name = request.path_params.get("name", "content")  # files/content/content
        return upload_path(name, _directory(target))


@contextlib.contextmanager
def _path_errors() -> Generator[None, None, None]:
    try:
        yield
    except BadRequest:
        raise
    except InvalidRequest as error:
        raise BadRequest(str(error), code=PATH_INVALID, target="path") from None


async def body_of(request: Request, limit: int, *, around: int = 0) -> AsyncIterator[bytes]:
    """Yield the request's body, reading at most `limit` bytes and the multipart framing."""
    claimed = request.headers.get("content-length", "0")
    size = int(claimed) if claimed.isdecimal() else 0
    if size > limit + around:
        raise too_large(f"An upload must have at most {limit} bytes.")
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit + around:
            raise too_large(f"An upload must have at most {limit} bytes.")
        yield chunk
