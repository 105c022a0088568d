"""Azure's HTTP API for dynamic sessions, over any local pool.

How a request flows::

    run         uvicorn with its limits; from the settings to the end
    transport/  the socket: TLS, slow clients, multipart bodies, the access log
    access/     authentication: API keys, Microsoft Entra ID tokens; web pages are refused
    app         what every request passes through: access, concurrency, errors, the access log
    routes/     `target` turns path, version and identifier into a `Target`; the others answer, with
                `greenroom.azure.codecs`
    registry    the pools, by name: opened, found, drained, closed
    records     executions that run or have ended, for clients that poll them
    in_sandbox/ functions that the server runs in a session

`budget` limits the memory of all requests together, `responses` builds responses, `settings` has the options.

Needs the extra `server` (`pip install 'greenroom[server]'`).
"""
