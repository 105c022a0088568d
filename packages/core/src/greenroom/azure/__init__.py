"""Azure Container Apps dynamic sessions: both contracts as pure functions, and a client.

Codecs, for client and server alike; none does I/O::

    wire      what both contracts share: API versions, `Call` (a request to send), `ExecuteRequest` and `Pending`
              (an execution asked for, and one under way), paths, times, headers, multipart
    results   an `Execution` as `stdout`, `stderr`, a result value and a status, and back
    problems  errors: `Problem` (status, code, message, ids) to and from a body, to and from `GreenroomError`
    legacy    2024-02-02-preview, 2024-08-02-preview: code/execute, properties, Success/Failure, result
    flat      2024-10-02-preview and later: executions, Succeeded/Failed, executionResult, sessions, metadata

`legacy` and `flat` have the same functions, each in both directions:

    =========================  ==================  ========================================================
    request (client → server)  server reads it     response (server → client)
    =========================  ==================  ========================================================
    encode_execute_request     decode_execute_…    encode_execution, encode_pending / decode_execution
    list_files                 wire.session_path   encode_files / decode_files
    upload_file                wire.upload_path    encode_uploaded / decode_uploaded
    get_file                   wire.session_path   encode_file / decode_file
    download_file              wire.session_path   the content
    delete_file                wire.session_path   204
    =========================  ==================  ========================================================

`flat` alone has `get_execution`, `operation_location`, `encode_shell_execution`, `encode_session(s)` /
`decode_session(s)`, `encode_metadata` and `EXECUTED`, the status of each version for an execution.

A decoder of requests raises `problems.BadRequest`, an `InvalidRequest` that knows its code. A decoder of
responses raises `wire.Malformed`. `problems.problem_of` has the status and code of any `GreenroomError`, and
`problems.error_of` has the error of any answer.

The client does the I/O (it needs the extra `azure`)::

    client       `AzurePool`, the pool as a `Backend`
    http         requests to it: retries where nothing was dispatched, time limits, answers that are errors
    bodies       bodies in pieces, unpacked and timed, of requests and responses
    credentials  tokens, fetched when needed and renewed before they end
    settings     `AzureSettings`, its options; what an endpoint is
"""
