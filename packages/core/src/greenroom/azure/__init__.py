"""Azure Container Apps dynamic sessions: both contracts, and a client (which needs the extra `azure`)::

codecs       the contracts as pure functions, for client and server
client       `AzurePool`, a pool in Azure as a `Backend`
http         its requests: retries where nothing was dispatched, time limits, error responses
transport    `Transport`, what sends a request; `httpx_transport` does so with httpx, and `plain_transport` with a part
             of it; no other module imports httpx
bodies       request and response bodies in chunks, decompressed and timed
credentials  tokens, fetched when needed and renewed before they expire
settings     `AzureSettings`, the client's options; what a valid endpoint is
"""
