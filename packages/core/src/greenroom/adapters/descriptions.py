"""The descriptions of the tools and their parameters, as models read them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from greenroom.errors import InvalidRequest

# The parameters

CODE = "The Python code to run."
DIRECTORY = "A directory in /mnt/data."
PATH = "A file in /mnt/data, such as report.csv."
NAME = "The file's name, such as sales.csv."


def describe_run_python(*, state_kept: bool = True, figures_seen: bool = True) -> str:
    """Return the description of `run_python`.

    Args:
        state_kept: whether a call finds what the previous one left.
        figures_seen: whether the model gets the pictures themselves.
    """
    state = (
        "Variables, imports and files are kept from call to call."
        if state_kept
        else "Each call starts afresh: no variable, import or file is kept for the next."
    )
    figures = "its figures" if figures_seen else "the names of its figures"
    return (
        f"Run Python code in an isolated sandbox, like a notebook cell. {state} You get back what the code prints, "
        f"the value of its last expression, {figures}, and its error if it fails. Keep files in /mnt/data. There may "
        "be no network."
    )


TOOLS: Mapping[str, str] = MappingProxyType(
    {
        "run_python": describe_run_python(),
        "list_files": "List the files in /mnt/data and the directories below it, with their sizes.",
        "read_file": "Read a text file. The middle of a long file is left out: read that part with Python.",
        "download_file": "Send the user a file that you saved, such as a report or a chart.",
        "upload_file": "Copy a file that the user provided into /mnt/data.",
    }
)
"""The description of each tool, by name."""


def offered_tools(*, session_per_call: bool = False, uploads: bool = False) -> tuple[str, ...]:
    """Return the names of the tools that can work; a model need not know about the others.

    Args:
        session_per_call: whether a session ends with its call, so that files are not kept.
        uploads: whether the application names a directory to upload from.

    Raises:
        InvalidRequest: both.
    """
    if session_per_call and uploads:
        raise InvalidRequest("session_per_call=True cannot be combined with uploads=: files would not be kept.")
    if session_per_call:
        return ("run_python",)
    return tuple(name for name in TOOLS if uploads or name != "upload_file")
