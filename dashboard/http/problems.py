"""Errors as RFC 9457 problem documents, or as an HTML page for a browser."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lineside.bus.errors import (
    AlertNotFound,
    CheckpointNotFound,
    LinesideError,
    RunNotFound,
    StoreError,
    UsageError,
)
from lineside.dashboard.http.body_limit import BODY_MAX
from lineside.dashboard.http.strict_json import strict

log = logging.getLogger("lineside")

MEDIA_TYPE = "application/problem+json"


class ProblemDocument(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = Field(examples=["urn:lineside:problem:unknown-run"])
    title: str
    status: int
    detail: str
    instance: str


class Problem(Exception):
    """Raised by a route to answer with a problem document.

    ``kind`` is the last part of the document's ``type``; ``extra`` are additional members.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.extra = extra or {}


ErrorPage = Callable[[Request, Problem], Response]
"""Renders a problem as a page."""


def document(problem: Problem, instance: str) -> dict[str, Any]:
    """The members of the problem document; ``instance`` is the path of the request."""
    return {
        "type": f"urn:lineside:problem:{problem.kind}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
        **problem.extra,
    }


def response(problem: Problem, instance: str, headers: Mapping[str, str] | None = None) -> Response:
    """The problem document as a response."""
    return JSONResponse(
        strict(document(problem, instance))[0],  # it may repeat arbitrary text of the request
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=dict(headers or {}),
    )


def add_error_handlers(app: FastAPI, page: ErrorPage) -> None:
    """Make ``app`` answer every error with a problem document, or with ``page`` in a browser."""

    def respond(
        request: Request, problem: Problem, headers: Mapping[str, str] | None = None
    ) -> Response:
        if wants_page(request):
            return page(request, problem)
        return response(problem, request.url.path, headers)

    async def on_problem(request: Request, error: Exception) -> Response:
        return respond(request, from_error(error))

    async def on_http(request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 500)
        return respond(request, from_status(request, status), getattr(error, "headers", None))

    async def on_validation(request: Request, error: Exception) -> Response:
        return respond(request, from_validation(error))

    async def on_disconnect(_: Request, error: Exception) -> Response:
        del error
        return Response(status_code=HTTPStatus.BAD_REQUEST)  # no client receives it

    async def on_exception(request: Request, error: Exception) -> Response:
        log.error("dashboard: %s %s failed", request.method, request.url.path, exc_info=error)
        crashed = respond(request, INTERNAL_ERROR)
        # The server closes the connection afterwards, so clients must not reuse it.
        crashed.headers["Connection"] = "close"
        return crashed

    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(LinesideError, on_problem)
    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(ClientDisconnect, on_disconnect)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(Exception, on_exception)


INTERNAL_ERROR = Problem(
    500,
    "internal-error",
    "Internal error",
    "The dashboard failed while answering; its log has the traceback.",
)


def from_error(error: Exception) -> Problem:
    """The problem document of a Lineside error."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RunNotFound):
        return Problem(404, "unknown-run", "No such run", str(error), {"run": error.run})
    if isinstance(error, AlertNotFound):
        return Problem(404, "unknown-alert", "No such alert", str(error), {"id": error.wanted})
    if isinstance(error, CheckpointNotFound):
        extra = {"run": error.run, "id": error.wanted}
        return Problem(404, "unknown-checkpoint", "No such checkpoint", str(error), extra)
    if isinstance(error, StoreError):
        return Problem(503, "store-unavailable", "The run history cannot be read", str(error))
    if isinstance(error, UsageError):
        return Problem(400, "bad-request", "Bad request", str(error))
    return Problem(500, "internal-error", "Internal error", str(error))


def from_status(request: Request, status: int) -> Problem:
    """The problem document of an HTTP error that the framework raised."""
    path = request.url.path
    if status == HTTPStatus.NOT_FOUND:
        return Problem(404, "not-found", "Not found", f"There is no page or route {path}.")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        detail = f"{path} does not support {request.method}."
        return Problem(405, "method-not-allowed", "Method not allowed", detail)
    if status == HTTPStatus.BAD_REQUEST:
        detail = "The body could not be read: expected JSON in UTF-8."
        return Problem(400, "bad-request", "Bad request", detail)
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        detail = f"The body is too large: expected at most {BODY_MAX:,} bytes."
        return Problem(413, "too-large", "The request is too large", detail)
    phrase = HTTPStatus(status).phrase
    return Problem(status, phrase.lower().replace(" ", "-"), phrase, f"{phrase}: {path}.")


def from_validation(error: Exception) -> Problem:
    """The problem document of a request with invalid parameters or body."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    return invalid_request([_field_error(item) for item in found])


def invalid_request(errors: Sequence[tuple[str, str]]) -> Problem:
    """The problem document of parameters or fields: where each error is, and a message."""
    summary = "; ".join(f"{where}: {message}" for where, message in errors)
    return Problem(
        422,
        "invalid-request",
        "Invalid request",
        summary or "It could not be read.",
        {"errors": [{"where": where, "message": message} for where, message in errors]},
    )


def _field_error(item: Mapping[str, Any]) -> tuple[str, str]:
    if item["type"] == "json_invalid" or item["loc"] == ("body",):
        return "body", "expected a JSON object, with content-type: application/json"
    return ".".join(str(part) for part in item["loc"]), str(item["msg"])


def wants_page(request: Request) -> bool:
    """Whether the client accepts HTML and the path is a page's."""
    path = request.url.path
    if path.startswith(("/api", "/static", "/healthz", "/readyz")):
        return False
    return "text/html" in request.headers.get("accept", "")
