"""GET /v2: what the server and its models are, and whether they are ready."""

from fastapi import APIRouter, Request

import fend
from fend.errors import NotFound, Unavailable
from service.api.services import services
from service.api.v2.outputs import outputs
from service.api.v2.pictures import inputs
from service.api.v2.protocol import (
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
    error_docs,
)
from service.inference.serving_model import ServingModel

EXTENSIONS = ["binary_tensor_data", "classification", "model_repository"]
PLATFORM = "fend_bundle"

router = APIRouter(prefix="/v2", tags=["open inference protocol"])
probes = APIRouter(prefix="/v2", tags=["open inference protocol"])
"""What needs no key: the server's name, and its health."""


@probes.get("")
async def server_metadata() -> ServerMetadata:
    """The server and its extensions of the protocol."""
    return ServerMetadata(name="fend", version=fend.__version__, extensions=EXTENSIONS)


@probes.get("/health/live")
async def server_live() -> ServerLive:
    """Whether the process answers at all."""
    return ServerLive(live=True)


@probes.get("/health/ready", responses=error_docs(503))
async def server_ready(request: Request) -> ServerReady:
    """Whether every model that serves just answered a known image, one does, and no shutdown has
    begun."""
    await services(request).readiness.check()
    return ServerReady(ready=True)


@router.get("/models/{name}", response_model_exclude_none=True, responses=error_docs(404, 422, 503))
async def model_metadata(request: Request, name: str) -> ModelMetadata:
    """What a model takes and gives."""
    return _metadata(model_of(request, name, None))


@router.get(
    "/models/{name}/versions/{version}",
    response_model_exclude_none=True,
    responses=error_docs(404, 422, 503),
)
async def version_metadata(request: Request, name: str, version: str) -> ModelMetadata:
    """What this version of a model takes and gives."""
    return _metadata(model_of(request, name, version))


@router.get("/models/{name}/ready", responses=error_docs(404, 422, 503))
async def model_ready(request: Request, name: str) -> ModelReady:
    """Whether a model takes requests."""
    return _ready(request, model_of(request, name, None))


@router.get("/models/{name}/versions/{version}/ready", responses=error_docs(404, 422, 503))
async def version_ready(request: Request, name: str, version: str) -> ModelReady:
    """Whether this version of a model takes requests."""
    return _ready(request, model_of(request, name, version))


def model_of(request: Request, name: str, version: str | None) -> ServingModel:
    """The model of that name, when it has that version.

    Raises:
        NotFound: there is none.
        FendError: with the code for which its bundle was refused.
    """
    repository = services(request).repository
    model = repository.get(name)
    if version is not None and version != model.manifest.version:
        raise NotFound(
            f"model {name!r} has no version {version[:100]!r}; it has {model.manifest.version}",
            code="model_unknown",
        )
    return model


def _ready(request: Request, model: ServingModel) -> ModelReady:
    name = model.manifest.name
    if services(request).lifecycle.draining:
        raise Unavailable("the service is about to stop; send requests elsewhere", code="draining")
    if not model.batcher.alive:
        raise Unavailable(f"the queue of model {name!r} has ended", code="not_ready")
    return ModelReady(name=name, ready=True)


def _metadata(model: ServingModel) -> ModelMetadata:
    content = model.manifest.content
    return ModelMetadata(
        name=model.manifest.name,
        versions=[model.manifest.version],
        platform=PLATFORM,
        inputs=inputs(content.input),
        outputs=outputs(content),
    )
