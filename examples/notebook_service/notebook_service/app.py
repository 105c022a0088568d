"""The application, for one worker: `uvicorn notebook_service.app:create_app --factory`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

import greenroom
from code_service import problems
from code_service.app import Program, User
from code_service.bodies import BodyLimit
from code_service.limits import AtATime, TokenBuckets
from code_service.settings import MOST_BODY, Settings
from code_service.users import user_of
from notebook_service.kernels import Kernels
from notebook_service.store import Store

router = APIRouter(prefix="/notebooks")


async def signed_in(request: Request) -> str:
    """The user, without limiting requests: users whose cells wait must be able to interrupt them."""
    return user_of(request.app.state.settings.secret, request.headers.get("authorization"))


SignedIn = Annotated[str, Depends(signed_in)]


def kernels_of(request: Request) -> Kernels:
    return request.app.state.kernels


def store_of(request: Request) -> Store:
    return request.app.state.store


TheKernels = Annotated[Kernels, Depends(kernels_of)]
TheStore = Annotated[Store, Depends(store_of)]


class Ran(BaseModel):
    """A cell that has run."""

    cell: dict[str, Any]
    """In the form of nbformat 4, with its outputs. They can have HTML and JavaScript: sanitize them for a browser."""
    notice: str | None
    """A message for the user if the variables of earlier cells are gone."""


@router.post("", status_code=201)
async def create(user: User, store: TheStore) -> dict[str, str]:
    return {"id": await asyncio.to_thread(store.create, user)}


@router.get("")
async def list_notebooks(user: User, store: TheStore) -> list[str]:
    return await asyncio.to_thread(store.ids, user)


@router.get("/{notebook}")
async def save(notebook: str, user: User, store: TheStore) -> Response:
    """The notebook as a file, for Jupyter or other programs."""
    content = await asyncio.to_thread(store.load, user, notebook)
    headers = {"Content-Disposition": 'attachment; filename="notebook.ipynb"', "X-Content-Type-Options": "nosniff"}
    return JSONResponse(content, headers=headers, media_type="application/x-ipynb+json")


@router.post("/{notebook}/cells")
async def run_cell(notebook: str, program: Program, user: User, kernels: TheKernels) -> Ran:
    """Add a cell and run it after the cells that were sent before."""
    ran = await kernels.run_cell(user, notebook, program.code)
    return Ran(cell=ran.cell, notice=ran.notice)


@router.post("/{notebook}/run")
async def run_all(notebook: str, user: User, kernels: TheKernels) -> dict[str, Any]:
    """Run all cells again, in a new session."""
    return await kernels.run_all(user, notebook)


@router.post("/{notebook}/interrupt")
async def interrupt(notebook: str, user: SignedIn, kernels: TheKernels) -> dict[str, bool]:
    """Interrupt the running cell, which keeps its output so far, and drop waiting ones."""
    return {"interrupted": await kernels.interrupt(user, notebook)}


@router.delete("/{notebook}", status_code=204)
async def delete(notebook: str, user: SignedIn, kernels: TheKernels) -> None:
    await kernels.close(user, notebook)


def create_app(
    settings: Settings | None = None,
    pool: greenroom.SessionPool | None = None,
    *,
    directory: Path | None = None,
    idle_timeout: float | None = None,
) -> FastAPI:
    """Return the application.

    Args:
        settings: by default read from the environment.
        pool: by default the one that `GREENROOM_POOL` names, opened and closed with the application.
        directory: where the notebooks are; by default that of `NOTEBOOK_SERVICE_DIRECTORY`, else `notebooks`.
        idle_timeout: seconds without a cell after which a notebook's session ends; by default, and at most, the pool's
            `cooldown_period`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        state = app.state
        state.settings = chosen = settings or Settings.from_environment()
        folder = directory or Path(os.environ.get("NOTEBOOK_SERVICE_DIRECTORY") or "notebooks")
        async with AsyncExitStack() as stack:
            opened = pool or await stack.enter_async_context(greenroom.aconnect(acquire_timeout=2))
            state.buckets = TokenBuckets(chosen.rates, rate=chosen.rate, burst=chosen.burst)
            stack.callback(state.buckets.close)
            state.at_a_time = AtATime(chosen.at_a_time)
            state.store = Store(folder, most_notebooks=50, most_bytes=MOST_BODY)
            state.kernels = Kernels(
                opened,
                state.store,
                timeout=chosen.timeout,
                idle_timeout=idle_timeout,
                memory=chosen.memory,
                most_waiting=chosen.at_a_time,
            )
            yield

    app = FastAPI(title="Notebook service", lifespan=lifespan)
    app.add_middleware(BodyLimit, most=MOST_BODY)
    problems.install(app)
    app.include_router(router)
    return app
