"""ASGI applications as endpoints of routes, and how their responses are sent."""

from __future__ import annotations

from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from greenroom.server.responses import no_room


class Endpoint:
    """An ASGI application as an endpoint: with a function, Starlette would send the returned response itself."""

    def __init__(self, respond: ASGIApp) -> None:
        self._respond = respond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._respond(scope, receive, send)


async def send_held(response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a response, counting its memory for its request.

    Raises:
        RequestRefused: the server's memory for requests is full.
    """
    if not isinstance(response, StreamingResponse) and not scope["greenroom.held"].hold(len(response.body)):
        raise no_room("The server's memory for requests is too full to send this response. Try again.")
    await response(scope, receive, send)
