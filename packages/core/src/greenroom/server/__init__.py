"""Azure's HTTP API for dynamic sessions, over any local pool.

The way of a request::

    run         uvicorn with its limits; opens the pools, ends them, and drains in between
    app         every request's beginning and end: who may, how many at once, errors, the access log
    routing     paths, versions and identifiers become a `Target`
    executing, files, sessions      what the routes do, with the codecs of `greenroom.azure`
    executions  those under way and those that have ended, for whoever asks later

Beside it: `settings`, `auth` and `entra` (who may call), `browsers` (web pages may not), `pace` (slow clients),
`budget` (what is in memory for all callers), `multipart`, `tls`, `accesslog`, and `inside`, whose functions run in
sandboxes (`sandboxcode`).

Needs the extra `server` (`pip install 'greenroom[server]'`).
"""
