"""Errors as RFC 9457 problem details, or as /v2 wants them."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from fend.errors import FendError
from service.api.content_coding import ACCEPTED
from service.api.services import services_of

MEDIA_TYPE = "application/problem+json"

OPEN_INFERENCE = "/v2/"
"""Below this path errors are in the form of the Open Inference Protocol."""


class Problem(BaseModel):
    """What went wrong (RFC 9457). `code` is stable, `detail` is for people."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Content Too Large",
                    "status": 413,
                    "detail": "The image has 30000x30000 = 900000000 pixels, at most 16000000 "
                    "are accepted. Scale it down.",
                    "instance": "/v1/classify",
                    "code": "image_too_many_pixels",
                    "request_id": "0d4c1f7c9b0e4a67",
                }
            ]
        }
    )

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    errors: list[dict[str, Any]] | None = Field(
        default=None, description="Each bad parameter or field, where there are several."
    )


def problem_response(
    scope: Mapping[str, Any],
    status: int,
    code: str,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[dict[str, Any]] | None = None,
) -> Response:
    """The response for a problem of the request in `scope`; also counts and logs its code."""
    structlog.contextvars.bind_contextvars(code=code)
    problem = _problem(scope, status, code, detail, errors)
    media_type, body = written(scope["path"], problem)
    return Response(body, status, headers=dict(headers or {}), media_type=media_type)


def written(path: str, problem: Problem) -> tuple[str, str]:
    """Media type and body for a problem with a request to `path`."""
    if f"{path}/".startswith(OPEN_INFERENCE):
        return "application/json", json.dumps({"error": problem.detail}, ensure_ascii=False)
    return MEDIA_TYPE, problem.model_dump_json(exclude_none=True)


class ClientGone(FendError):
    """The client left before the answer; nobody reads this."""

    status = 499
    code = "client_gone"


def part_problem(scope: Mapping[str, Any], error: FendError) -> Problem:
    """What went wrong with one part of a request that is answered as a whole; also counts it."""
    return _problem(scope, error.status, error.code, str(error), None)


def _problem(
    scope: Mapping[str, Any],
    status: int,
    code: str,
    detail: str,
    errors: list[dict[str, Any]] | None,
) -> Problem:
    services_of(scope["app"]).metrics.requests_rejected.labels(code).inc()
    return Problem(
        title=HTTPStatus(status).phrase if status in list(HTTPStatus) else "Client Gone",
        status=status,
        detail=detail,
        instance=scope.get("root_path", "") + scope["path"],
        code=code,
        request_id=scope["state"]["request_id"],
        errors=errors,
    )


def fend_problem(scope: Mapping[str, Any], error: FendError) -> Response:
    """The response for an error that was raised on purpose."""
    headers = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = f"{error.retry_after_s:.0f}"
    elif error.status == 503:
        headers["Retry-After"] = "1"
    elif error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    elif error.code == "unsupported_content_encoding":
        headers["Accept-Encoding"] = ", ".join(ACCEPTED)
    return problem_response(scope, error.status, error.code, str(error), headers=headers)


def add_problem_handlers(app: FastAPI) -> None:
    """Answer every error of the routes as a problem."""

    @app.exception_handler(FendError)
    async def on_fend_error(request: Request, error: FendError) -> Response:
        return fend_problem(request.scope, error)

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        # FastAPI wraps whatever reading a body raises; ours says more.
        if isinstance(error.__cause__, FendError):
            return fend_problem(request.scope, error.__cause__)
        phrase = HTTPStatus(error.status_code).phrase
        if error.status_code == 405:
            error.headers = {"Allow": ", ".join(_methods(app, request.scope))}
        return problem_response(
            request.scope,
            error.status_code,
            phrase.lower().replace(" ", "_").replace("-", "_"),
            error.detail,
            headers=error.headers,
        )

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"loc": [str(part) for part in item["loc"]], "msg": item["msg"]}
            for item in error.errors()
        ]
        first = errors[0]
        detail = f"{'.'.join(first['loc'])}: {first['msg']}"
        return problem_response(request.scope, 422, "request_invalid", detail, errors=errors)


def _methods(app: FastAPI, scope: Mapping[str, Any]) -> list[str]:
    """What the path can be asked, by all of its routes."""
    allowed = [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if any(
            route.matches({**scope, "method": method})[0] is Match.FULL
            for route in app.router.routes
        )
    ]
    return ["GET", "HEAD", *allowed[1:]] if "GET" in allowed else allowed


def problem_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can answer with these problems, for OpenAPI."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }
