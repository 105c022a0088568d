"""What the adapters to frameworks share, so that a model meets the same tools everywhere. Public, for adapters.

An adapter translates: it finds out which conversation calls, has the work done here, and puts what comes of it
into its framework's form. A way to another framework begins with these names::

    SessionRouter               which session a call works in
    offered_tools, …            the tools, and what models read about them
    run_python, read_file, …    what the tools do, each with an `a…` twin
    ToolAnswer, RETRYABLE        what comes of it: a text for the model, or an error that the model can mend
    figures_for_models          the pictures that models take, for frameworks whose results can carry them
"""

from greenroom.adapters.code import strip_fence
from greenroom.adapters.conversation import conversation_identifier
from greenroom.adapters.descriptions import (
    CODE,
    DIRECTORY,
    NAME,
    PATH,
    TOOLS,
    describe_run_python,
    offered_tools,
)
from greenroom.adapters.execution import MODEL_FORMATS, arun_python, figures_for_models, run_python
from greenroom.adapters.files import (
    DOWNLOAD_LIMIT,
    READ_LIMIT,
    Download,
    adownload_file,
    alist_files,
    aread_file,
    aupload_file,
    check_uploads,
    download_file,
    list_files,
    read_file,
    upload_file,
)
from greenroom.adapters.results import RETRYABLE, ToolAnswer
from greenroom.adapters.routing import SessionRouter
from greenroom.models import DATA_DIR
from greenroom.sessions.rules import check_timeout
from greenroom.text import check_budget, describe, shorten

__all__ = [
    "CODE",
    "DATA_DIR",
    "DIRECTORY",
    "DOWNLOAD_LIMIT",
    "MODEL_FORMATS",
    "NAME",
    "PATH",
    "READ_LIMIT",
    "RETRYABLE",
    "TOOLS",
    "Download",
    "SessionRouter",
    "ToolAnswer",
    "adownload_file",
    "alist_files",
    "aread_file",
    "arun_python",
    "aupload_file",
    "check_budget",
    "check_timeout",
    "check_uploads",
    "conversation_identifier",
    "describe",
    "describe_run_python",
    "download_file",
    "figures_for_models",
    "list_files",
    "offered_tools",
    "read_file",
    "run_python",
    "shorten",
    "strip_fence",
    "upload_file",
]
