"""The common case of POST /v1/classify, without the machinery that it does not need.

An image as the raw body and no parameters: nothing to route, to validate or to document. FastAPI
takes as long for those as the model for the image (see docs/decisions.md), so such a request is
answered here, by the very functions that the route calls. Every other request goes on to FastAPI.
"""

from types import SimpleNamespace

from fastapi import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fend.errors import FendError
from service.api.answering import Answering, server_timing
from service.api.classify import classified, labels_wanted
from service.api.problems import fend_problem
from service.api.security import check_inference
from service.api.uploads import IMAGE_TYPES

PATH = "/v1/classify"
_ROUTE = SimpleNamespace(path=PATH)  # for the metrics
_TYPES = frozenset(name.encode() for name in IMAGE_TYPES)


class ClassifyLane:
    """A middleware; the innermost one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not _plain(scope):
            await self._app(scope, receive, send)
            return
        scope["route"] = _ROUTE
        request = Request(scope, receive)
        response: Response
        try:
            await check_inference(request)
            response = await _answer(request)
        except FendError as error:
            response = fend_problem(scope, error)
        await response(scope, receive, send)


async def _answer(request: Request) -> Response:
    answering: Answering = request.app.state.answering
    wanted = labels_wanted(request, None, None)
    answered = await answering.answer(request, None)
    answer = await classified(answering, answered, wanted, denoised=False)
    return Response(
        answer.model_dump_json(exclude_none=True),
        headers={"Server-Timing": server_timing([answered.timing])},
        media_type="application/json",
    )


def _plain(scope: Scope) -> bool:
    if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
        return False
    types = [value for name, value in scope["headers"] if name == b"content-type"]
    return not scope["query_string"] and len(types) == 1 and types[0] in _TYPES
