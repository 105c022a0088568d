"""The application. Run it with `uvicorn code_service.app:create_app --factory --workers 2`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictStr

import greenroom
from code_service import problems
from code_service.bodies import BodyLimit
from code_service.limits import AtATime, TokenBuckets
from code_service.outcome import File, Outcome
from code_service.problems import Problem
from code_service.settings import MOST_BODY, MOST_CODE, Settings
from code_service.users import user_of
from greenroom.adapters import conversation_identifier

router = APIRouter()


async def signed_in(request: Request) -> AsyncGenerator[str, None]:
    """The user, whose requests are within the limits."""
    state = request.app.state
    user = user_of(state.settings.secret, request.headers.get("authorization"))
    if wait := await asyncio.to_thread(state.buckets.take, user):
        raise Problem(429, "too_many_requests", "You have sent too many requests.", retry_after=wait)
    with state.at_a_time.hold(user) as room:
        if not room:
            raise Problem(429, "too_many_at_a_time", "Wait for the answers to your requests.", retry_after=1)
        yield user


User = Annotated[str, Depends(signed_in)]


def own_session(request: Request, user: User) -> greenroom.Session:
    """The user's session: no part of the request names it, so users cannot reach each other's sessions."""
    settings: Settings = request.app.state.settings
    identifier = conversation_identifier("users", user)
    return request.app.state.pool.session(identifier, timeout=settings.timeout, memory=settings.memory)


OwnSession = Annotated[greenroom.Session, Depends(own_session)]


class Program(BaseModel):
    """The code that a user wants to run."""

    model_config = ConfigDict(extra="forbid")

    code: Annotated[StrictStr, Field(max_length=MOST_CODE)]


@router.post("/run")
async def run(
    program: Program,
    session: OwnSession,
    request: Request,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=200)] = None,
) -> Outcome:
    """Run code in the user's session.

    With an `Idempotency-Key`, the request can be repeated if its connection broke: the code runs once, and continues if
    its worker is killed; a request with the same key and code gets the outcome. Without a key, the code ends with its
    worker.
    """
    if idempotency_key is None:
        return Outcome.of(await session.aexecute(program.code))
    timeout = request.app.state.settings.timeout
    return Outcome.of(await _once(session, program.code, timeout, idempotency_key))


async def _once(session: greenroom.Session, code: str, timeout: float, key: str) -> greenroom.Execution:
    """Run code, or wait for the execution that an earlier request with this key started."""
    id_ = hashlib.sha256(f"{len(key)} {key}{code}".encode("utf-8", "surrogatepass")).hexdigest()
    handle = session.submit(code, timeout=timeout, id=id_)  # it continues without this worker
    try:
        return await handle.aresult()
    except greenroom.InvalidRequest:  # the session has an execution with this id
        return await session.resume(id_).aresult()


@router.delete("/session", status_code=204)
async def end_session(session: OwnSession) -> None:
    """End the user's session, for example at logout."""
    await session.adelete()


@router.get("/files")
async def list_files(session: OwnSession) -> list[File]:
    return [File.of(file) for file in await session.afiles() if not file.is_directory]


@router.put("/files/{name}", status_code=201)
async def upload(name: str, request: Request, session: OwnSession) -> File:
    """Upload the body to the user's session as a file."""
    return File.of(await session.aupload(await request.body(), name))


@router.get("/files/{name}")
async def download(name: str, session: OwnSession) -> Response:
    """Return a file. It is untrusted, so browsers must not treat it as a page of this service."""
    content = await session.adownload(name, limit=MOST_BODY)
    headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    return Response(content, media_type="application/octet-stream", headers=headers)


@router.get("/healthz")
async def is_alive() -> dict[str, str]:
    return {"status": "ok"}


@router.get("/readyz")
async def is_ready(request: Request) -> dict[str, str]:
    """Answer with 503 as long as the sandboxes do not respond."""
    await request.app.state.pool.astatus()
    return {"status": "ok"}


def create_app(settings: Settings | None = None, pool: greenroom.SessionPool | None = None) -> FastAPI:
    """Return the application.

    Args:
        settings: by default read from the environment.
        pool: by default the one that `GREENROOM_POOL` names, opened and closed with the application. Several workers
            share the sessions of a `greenroom serve`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        # Read here: uvicorn exits if this fails, but restarts workers forever if the application cannot be created.
        state = app.state
        state.settings = chosen = settings or Settings.from_environment()
        async with AsyncExitStack() as stack:
            state.pool = pool or await stack.enter_async_context(greenroom.aconnect(acquire_timeout=2))
            state.buckets = TokenBuckets(chosen.rates, rate=chosen.rate, burst=chosen.burst)
            stack.callback(state.buckets.close)
            state.at_a_time = AtATime(chosen.at_a_time)
            yield

    app = FastAPI(title="Code service", lifespan=lifespan)
    app.add_middleware(BodyLimit, most=MOST_BODY)
    problems.install(app)
    app.include_router(router)
    return app
