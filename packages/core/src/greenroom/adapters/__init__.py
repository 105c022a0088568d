"""The code that all adapters share, so that models get the same tools in every framework. Public, for adapters.

An adapter translates: it finds the conversation that a call belongs to, lets a `Toolset` do the work, and converts the
answer to its framework's form. An adapter for another framework starts from these names::

    Toolset                     the tools: names, descriptions and calls, with the options that all adapters share
    ToolAnswer                  what a call returns: a text and figures for the model, an artifact for the application
    CODE, DIRECTORY, …          the descriptions of parameters
    OnOutput, with_context      a callback for output while code runs, without and with the framework's context
    Attendance                  code whose calls may have to wait for a person
    default_pool                the pool of tools that were given none
    end_run                     deletes the session that a run without a conversation had
    Functions, read_functions   functions of the application that code can call, and their text for models
    result_schema               the schema of such a function's result, from its annotation

Below them are `SessionRouter`, which finds the session of a call, the functions behind the tools (`run_code`,
`read_file`, …, each with an `a…` twin), and `RETRYABLE`, the errors that become answers.
"""

from greenroom.adapters.approval import COMPUTING_MODULES, code_needs_approval
from greenroom.adapters.attended import Attendance
from greenroom.adapters.background import (
    alook_at_code,
    areset_session,
    astart_code,
    astop_code,
    look_at_code,
    reset_session,
    start_code,
    stop_code,
)
from greenroom.adapters.code import strip_fence
from greenroom.adapters.conversation import conversation_identifier
from greenroom.adapters.default import adefault_pool, close_default_pool, default_pool
from greenroom.adapters.descriptions import (
    CODE,
    CODE_TOOLS,
    COMMAND,
    DIRECTORY,
    EXECUTION_ID,
    JAVASCRIPT,
    NAME,
    PATH,
    STARTED,
    TOOLS,
    CodeTool,
    describe_tools,
    offered_tools,
)
from greenroom.adapters.downloads import Download
from greenroom.adapters.execution import OnOutput, answer_of, arun_code, run_code, with_context
from greenroom.adapters.figures import FIGURES_NOTE, MODEL_FORMATS, figures_for_models
from greenroom.adapters.files import (
    DOWNLOAD_LIMIT,
    READ_LIMIT,
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
from greenroom.adapters.functions import FUNCTIONS_BUDGET, SEARCH, Functions, read_functions
from greenroom.adapters.results import RETRYABLE, Artifact, ToolAnswer
from greenroom.adapters.routing import SessionRouter
from greenroom.adapters.runs import aend_run, end_run, session_of_run
from greenroom.adapters.toolset import Toolset
from greenroom.models import DATA_DIR
from greenroom.sessions.rules import check_timeout
from greenroom.text import check_budget, describe, shorten
from greenroom.tools.definitions import result_schema
from greenroom.untrusted import brief

__all__ = [
    "CODE",
    "CODE_TOOLS",
    "COMMAND",
    "COMPUTING_MODULES",
    "DATA_DIR",
    "DIRECTORY",
    "DOWNLOAD_LIMIT",
    "EXECUTION_ID",
    "FIGURES_NOTE",
    "FUNCTIONS_BUDGET",
    "JAVASCRIPT",
    "MODEL_FORMATS",
    "NAME",
    "PATH",
    "READ_LIMIT",
    "RETRYABLE",
    "SEARCH",
    "STARTED",
    "TOOLS",
    "Artifact",
    "Attendance",
    "CodeTool",
    "Download",
    "Functions",
    "OnOutput",
    "SessionRouter",
    "ToolAnswer",
    "Toolset",
    "adefault_pool",
    "adownload_file",
    "aend_run",
    "alist_files",
    "alook_at_code",
    "answer_of",
    "aread_file",
    "areset_session",
    "arun_code",
    "astart_code",
    "astop_code",
    "aupload_file",
    "brief",
    "check_budget",
    "check_timeout",
    "check_uploads",
    "close_default_pool",
    "code_needs_approval",
    "conversation_identifier",
    "default_pool",
    "describe",
    "describe_tools",
    "download_file",
    "end_run",
    "figures_for_models",
    "list_files",
    "look_at_code",
    "offered_tools",
    "read_file",
    "read_functions",
    "reset_session",
    "result_schema",
    "run_code",
    "session_of_run",
    "shorten",
    "start_code",
    "stop_code",
    "strip_fence",
    "upload_file",
    "with_context",
]
