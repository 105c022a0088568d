"""The ASGI application of the pages: access, routing and forms."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from greenroom.azure.codecs.problems import BadRequest, Problem, encode_problem
from greenroom.server.access.origins import SIGN_IN_COOKIE
from greenroom.server.responses import RequestRefused, no_room
from greenroom.server.routes.bodies import read_body
from greenroom.server.routes.target import parse_query
from greenroom.server.settings import ServerSettings
from greenroom.server.transport.access_log import Entry
from greenroom.server.ui.access import Access, Viewer, cookie_of, refuse_foreign_pages, set_cookie
from greenroom.server.ui.pages import Pages
from greenroom.server.ui.rendering import PARTS, link, redirect

_Show: TypeAlias = Callable[[Viewer, Mapping[str, str]], Awaitable[Response]]

_MOST_FORM = 32 << 10  # the token of a person in many groups has a few KiB
_FORM = "application/x-www-form-urlencoded"


class Ui:
    """Serves `/ui` and the paths below it."""

    def __init__(self, pages: Pages, access: Access, settings: ServerSettings) -> None:
        self._pages = pages
        self._access = access
        self._public_url = settings.public_url or ""
        public_host = urlsplit(self._public_url).hostname
        self._hosts = settings.allowed_hosts | ({public_host} if public_host else set[str]())
        self._shown: Mapping[str, _Show] = {
            "/ui": pages.overview,
            "/ui/pool": pages.pool,
            "/ui/sessions": pages.sessions,
            "/ui/usage": pages.usage,
            "/ui/log": pages.log,
        }

    @staticmethod
    def has(path: str) -> bool:
        """Whether a path belongs to the pages, even if there is no such page."""
        return path == "/ui" or path.startswith("/ui/")

    async def admit(self, scope: Scope) -> str | None:
        """Check the origin of a request, find its viewer, and return the name of its credential.

        Raises:
            RequestRefused: it comes from another site, or its credential cannot be checked at the moment.
        """
        headers, path = Headers(scope=scope), scope["path"]
        is_part = path.removeprefix("/ui/") in PARTS
        guarded = self._access.needs_sign_in
        refuse_foreign_pages(headers, self._hosts, guarded=guarded, page=not is_part)
        viewer = None if is_part else await self._access.viewer(cookie_of(headers, _cookie_name(scope)))
        scope["greenroom.viewer"] = viewer
        return viewer.caller if viewer is not None else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        path = scope["path"].rstrip("/")
        response = await self._respond(request, path)
        if not scope["greenroom.held"].hold(len(response.body)):
            raise no_room("The server's memory for requests is too full to send this page. Try again.")
        await response(scope, receive, send)

    def refusal(self, problem: Problem, headers: Mapping[str, str], scope: Scope) -> Response:
        """Return an error as a page; for an error about a key, this is the sign-in page."""
        is_about_key = problem.status == 401
        page = (
            self._pages.sign_in(problem.message, 401)
            if is_about_key
            else self._pages.refused(scope.get("greenroom.viewer"), problem)
        )
        more = {**headers, **encode_problem(problem)[0]}
        page.headers.update({name: value for name, value in more.items() if name.lower() != "www-authenticate"})
        return page

    async def _respond(self, request: Request, path: str) -> Response:
        name = path.removeprefix("/ui/")
        if name in PARTS:
            _allow(request, "GET", path)
            return self._pages.part(name)
        if path == "/ui/sign-in":
            _allow(request, "GET" if request.method == "GET" else "POST", path)
            return self._pages.sign_in() if request.method == "GET" else await self._sign_in(request)
        actions = {"/ui/sign-out": self._sign_out, "/ui/sessions/stop": self._stop}
        show, act = self._shown.get(path), actions.get(path)
        if show is None and act is None:
            raise RequestRefused(404, "PageNotFound", "There is no such page.")
        _allow(request, "GET" if show is not None else "POST", path)
        viewer: Viewer | None = request.scope["greenroom.viewer"]
        if viewer is None:
            return redirect(link("/sign-in"))
        if act is not None:
            return await act(request, viewer)
        assert show is not None  # noqa: S101  one of the two exists
        return await show(viewer, parse_query(request))

    async def _sign_in(self, request: Request) -> Response:
        form = await _read_form(request)
        name = _cookie_name(request.scope)
        token = await self._access.sign_in(form.get("key", "").strip(), cookie_of(request.headers, name))
        return redirect(link(""), set_cookie(name, token, secure=self._is_secure(request)))

    async def _sign_out(self, request: Request, viewer: Viewer) -> Response:
        viewer.check_form((await _read_form(request)).get("form_token", ""))
        name = _cookie_name(request.scope)
        self._access.sign_out(cookie_of(request.headers, name))
        return redirect(link("/sign-in"), set_cookie(name, "", secure=self._is_secure(request)))

    def _is_secure(self, request: Request) -> bool:
        """Whether the browser uses TLS: the server's or a proxy's, which the origin of a form shows."""
        known = (f"{request.url.scheme}://", self._public_url, request.headers.get("origin", ""))
        return any(each.startswith("https://") for each in known)

    async def _stop(self, request: Request, viewer: Viewer) -> Response:
        form = await _read_form(request)
        viewer.check_form(form.get("form_token", ""))
        if not viewer.can_manage:
            raise RequestRefused(
                403, "AuthorizationFailed", "Stopping a session requires the right to manage pools. Sign in with a key "
                "for management."
            )  # fmt: skip
        pool, identifier = (unquote(form.get(name, "")) for name in ("pool", "session"))
        entry: Entry = request.scope["greenroom.entry"]
        entry.note(pool=pool, identifier=identifier)
        await self._pages.stop(pool, identifier)
        return redirect(link("/sessions", pool=form.get("shown", ""), stopped=1))


def _allow(request: Request, method: str, path: str) -> None:
    """Refuse other methods, and set the request's route for metrics: its path is now known to be a page."""
    if request.method != method:
        raise RequestRefused(
            405, "MethodNotAllowed", f"The method must be {method} here, not {request.method!r:.50}.",
            headers={"Allow": method},
        )  # fmt: skip
    request.scope["greenroom.operation"] = f"{method} {path}"


async def _read_form(request: Request) -> dict[str, str]:
    """Read the fields of a form.

    Raises:
        BadRequest: it is not a form, or has too many or repeated fields.
        RequestRefused: it is too large.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise BadRequest(f"The body must be a form of type {_FORM}.")
    body = await read_body(request, request.scope["greenroom.held"], _MOST_FORM)
    try:
        fields = parse_qsl(body.decode("latin-1"), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        raise BadRequest("The form must have at most 10 fields.") from None
    form = dict(fields)
    if len(form) < len(fields):
        raise BadRequest("A field of a form must not be repeated.")
    return form


def _cookie_name(scope: Scope) -> str:
    """Return a cookie name that is unique per server on a machine, as cookies do not distinguish ports."""
    return f"{SIGN_IN_COOKIE}{(scope.get('server') or (None, None))[1] or 0}"
