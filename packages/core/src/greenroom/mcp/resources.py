"""The files of sessions as resources: `greenroom://sessions/{session}/files/{+path}`."""

from __future__ import annotations

import base64
import mimetypes
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

from greenroom.mcp.protocol import Json
from greenroom.models import RemoteFile
from greenroom.untrusted import printable

_BEGINNING = "greenroom://sessions/"
_MIDDLE = "/files/"
_UNKNOWN = "application/octet-stream"
TEMPLATE = f"{_BEGINNING}{{session}}{_MIDDLE}{{+path}}"


def uri_of(session: str, file: RemoteFile) -> str:
    """Return the URI of a file."""
    return f"{_BEGINNING}{session}{_MIDDLE}{quote(file.name, errors='replace')}"


def parse_uri(uri: str) -> tuple[str, str] | None:
    """Return the session and the path that a URI names; `None` if it has another form."""
    session, middle, path = uri.removeprefix(_BEGINNING).partition(_MIDDLE)
    if not uri.startswith(_BEGINNING) or not middle or not session or not path or "/" in session:
        return None
    return unquote(session), unquote(path)


def template() -> Json:
    return {
        "uriTemplate": TEMPLATE,
        "name": "session-file",
        "title": "A session file",
        "description": "A file in a session's /mnt/data. The path is relative to that directory.",
    }


def resource_of(session: str, file: RemoteFile) -> Json:
    """Return a file as an entry of `resources/list`, and as a link in a result."""
    return {
        "uri": uri_of(session, file),
        "name": printable(file.name),
        "mimeType": mime_of(file),
        "size": file.size,
        "annotations": {"lastModified": file.modified.isoformat()},
    }


def contents_of(uri: str, file: RemoteFile, content: bytes) -> Json:
    """Return the content of a file: as text if possible, otherwise in base64."""
    mime = mime_of(file)
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = None
    if text is None:
        return {"uri": uri, "mimeType": mime, "blob": base64.b64encode(content).decode()}
    return {"uri": uri, "mimeType": mime if mime != _UNKNOWN else "text/plain", "text": text}


def mime_of(file: RemoteFile) -> str:
    """The type that a file's name suggests; the content can be anything."""
    return mimetypes.guess_type(PurePosixPath(file.name).name)[0] or _UNKNOWN
