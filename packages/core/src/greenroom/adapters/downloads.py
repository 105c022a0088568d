"""A file that a model sent to the user."""

from __future__ import annotations

import mimetypes
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from greenroom.models import RemoteFile


@dataclass(frozen=True, slots=True)
class Download:
    """A file that a model sent to the user."""

    file: RemoteFile
    data: bytes = field(repr=False)

    @property
    def mime(self) -> str:
        """The type that its name suggests; the content can differ."""
        # Guessed from the last part only: the whole path could look like a `data:` URL that states its own type.
        return mimetypes.guess_type(PurePosixPath(self.file.name).name)[0] or "application/octet-stream"
