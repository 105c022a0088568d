"""Azure's contracts as pure functions, shared by client and server; none does I/O::

    shared    the parts of both contracts: API versions, `Call` (a request to send), `ExecuteRequest` and
              `Pending` (an accepted execution that has not ended), paths, times, headers, multipart
    results   an `Execution` as `stdout`, `stderr`, a result value and a status, and back
    requests  the fields of a request to execute, and which are refused
    problems  errors: `Problem` (status, code, message, ids) to and from a body, to and from `GreenroomError`
    contract  `Contract`, the functions that the next two have in common, and `contract_of` a version
    legacy    2024-02-02-preview, 2024-08-02-preview: code/execute, properties, Success/Failure, result
    current   2024-10-02-preview and later: executions, Succeeded/Failed, executionResult, sessions, metadata

`contract.Contract` in both directions:

    =========================  ===================  ========================================================
    request (client → server)  server reads it      response (server → client)
    =========================  ===================  ========================================================
    encode_execute_request     decode_execute_…     encode_execution, encode_pending / decode_execution
    list_files                 shared.session_path  encode_files / decode_files
    upload_file                shared.upload_path   encode_uploaded / decode_uploaded
    get_file                   shared.session_path  encode_file / decode_file
    download_file              shared.session_path  the content
    delete_file                shared.session_path  204
    =========================  ===================  ========================================================

`current` alone has `get_execution`, `operation_location`, `encode_shell_execution`, `encode_session(s)` /
`decode_session(s)`, `encode_metadata` and `EXECUTED`, the HTTP status of an execution in each version.

Decoders of requests raise `problems.BadRequest`, an `InvalidRequest` with Azure's error code. Decoders of responses
raise `shared.Malformed`. `problems.problem_of` returns the status and code of any `GreenroomError`, and
`problems.error_of` the error of any response.
"""
