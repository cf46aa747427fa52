"""The viewer as an ASGI application: its routes, its guard, and what becomes of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from cai.errors import CaiError
from cai.view import compare, draft_pages, marks_audit_pages, marks_pages, story, tables, try_pages
from cai.view.guard import READING, guarded
from cai.view.index import Told
from cai.view.open import open_view
from cai.view.pages import one_line, problem_page
from cai.view.read import Stale
from cai.view.state import Settings
from cai.view.try_trial import Trials


def create_app(settings: Settings, told: Told | None = None) -> FastAPI:
    """The viewer of one run; `told` hears how far the index is.

    Raises ConfigError where a folder is no run, StoreError where it cannot be read.
    """
    view = open_view(settings, told)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        app.state.trials.cancel()
        for index in view.indexes:
            index.close()

    app = FastAPI(title="cai view", docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.view = view
    app.state.trials = Trials()
    app.include_router(tables.router)
    app.include_router(story.router)
    app.include_router(compare.router)
    app.include_router(marks_pages.router)
    app.include_router(marks_audit_pages.router)
    app.include_router(draft_pages.router)
    app.include_router(try_pages.router)
    app.mount("/static", StaticFiles(directory=str(files("cai.view") / "static")))
    app.add_exception_handler(Exception, _problem)
    app.add_exception_handler(CaiError, _problem)
    app.add_exception_handler(Stale, _stale)
    app.add_exception_handler(HTTPException, _problem)
    app.add_exception_handler(RequestValidationError, _problem)
    app.add_middleware(guarded, settings=settings)
    return app


def _stale(request: Request, error: Exception) -> Response:
    """A run that goes on has published a file again: the page is asked for once more, by the index as it is then."""
    now = [index.look() for index in request.app.state.view.indexes]
    if request.method in READING and now != request.state.versions:
        return RedirectResponse(str(request.url.replace(scheme="", netloc="")), 303)
    return problem_page(500, one_line(str(error)))


async def _problem(request: Request, error: Exception) -> Response:
    """Every error is one line: the user's with status 400, a file's or a model's with 500."""
    if isinstance(error, HTTPException):
        return problem_page(error.status_code, f"{request.url.path}: {error.detail}")
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return problem_page(400, one_line(f"{first['loc'][-1]}: {first['msg']}"))
    status = 400 if getattr(error, "exit_code", 1) == 2 else 500
    return problem_page(status, one_line(str(error)))
