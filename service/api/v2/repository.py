"""POST /v2/repository: which models there are (Triton's model repository extension)."""

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict

from service.api.v2.protocol import IndexEntry, error_docs
from service.runtime.repository import RefusedModel, Repository

router = APIRouter(prefix="/v2/repository", tags=["open inference protocol"])


class IndexRequest(BaseModel):
    """Which models to list."""

    model_config = ConfigDict(strict=True)

    ready: bool = False


@router.post("/index", responses=error_docs(400, 413, 422))
async def index(request: Request, wanted: IndexRequest | None = None) -> list[IndexEntry]:
    """Every model, or those that are ready; the names are public, as in /v1/models."""
    repository: Repository = request.app.state.repository
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
