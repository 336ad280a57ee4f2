"""/v2/repository, Triton's model repository extension: which models there are, load and unload.

Which version is loaded is no part of the extension: /v1/admin/models says and changes that.
"""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, ValidationError

from service.api.services import services
from service.api.v2.protocol import IndexEntry, error_docs, protocol_invalid
from service.inference.serving_model import RefusedModel

router = APIRouter(prefix="/v2/repository", tags=["open inference protocol"])
changes = APIRouter(
    prefix="/v2/repository/models/{name}",
    tags=["open inference protocol"],
    responses=error_docs(400, 401, 404, 408, 413, 415, 422, 429, 503),
)
"""What needs the admin token."""


class IndexRequest(BaseModel):
    """Which models to list."""

    model_config = ConfigDict(strict=True)

    ready: bool = False


class ChangeRequest(BaseModel):
    """What clients send along."""

    parameters: dict[str, Any] = {}


_BODY: dict[str, Any] = {
    "requestBody": {"content": {"application/json": {"schema": ChangeRequest.model_json_schema()}}}
}


@router.post("/index", responses=error_docs(400, 413, 415, 422))
async def index(request: Request, wanted: IndexRequest | None = None) -> list[IndexEntry]:
    """Every model, or those that are ready; the names are public, as in /v1/models."""
    repository = services(request).repository
    entries = repository.serving() | repository.refused()
    listed = []
    for name, model in sorted(entries.items()):
        if isinstance(model, RefusedModel):
            state, version, reason = "UNAVAILABLE", "", model.error.code
        else:
            state, version, reason = "READY", model.manifest.version, ""
        if state == "READY" or not (wanted and wanted.ready):
            listed.append(IndexEntry(name=name, version=version, state=state, reason=reason))
    return listed


@changes.post("/load", openapi_extra=_BODY, responses=error_docs(409), response_class=Response)
async def load(request: Request, name: str) -> Response:
    """Let a model serve that does not: the version that did last. One that serves stays."""
    sent = await _parameters(request)
    if sent:
        raise protocol_invalid(
            f"load takes no {', '.join(sorted(sent))[:200]}: bundles come with `fend bundle add`, "
            "and /v1/admin/models/NAME/activate chooses a version"
        )
    await services(request).swaps.load(name)
    return Response()


@changes.post("/unload", openapi_extra=_BODY, response_class=Response)
async def unload(request: Request, name: str) -> Response:
    """Serve a model no more, until it is loaded; also after a restart."""
    await _parameters(request)  # unload_dependents: no model depends on another
    await services(request).swaps.unload(name)
    return Response()


async def _parameters(request: Request) -> dict[str, Any]:
    """What is sent, whatever Content-Type it has: tritonclient sends none.

    Raises:
        Invalid (`protocol_invalid`).
    """
    body = await request.body()
    try:
        return ChangeRequest.model_validate_json(body).parameters if body.strip() else {}
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise protocol_invalid(f"{place or 'the body'}: {first['msg']}") from error
