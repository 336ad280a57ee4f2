"""/v1/admin/models: the versions on disk, and which one serves."""

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from fend.bundles import read_manifest
from fend.bundles.versions import version_folders
from fend.errors import FendError
from service.api.problems import problem_docs
from service.api.services import services
from service.inference.serving_model import RefusedModel

router = APIRouter(
    prefix="/v1/admin/models", tags=["models"], responses=problem_docs(400, 401, 408, 413, 422, 429)
)


class VersionOnDisk(BaseModel):
    """A bundle of a model."""

    folder: str = Field(description="Its name, where the manifest cannot be read.")
    version: str | None
    active: bool
    refused: str | None = Field(description="The code for which its manifest was refused.")


class ModelLimits(BaseModel):
    """Limits of the model: FEND_MODEL_LIMITS, or those of all models."""

    queue_size: int = Field(description="Images that may be in flight; more are a 429.")
    max_batch: int = Field(description="Images that go through the model at once.")
    request_timeout_s: float = Field(description="Seconds for one answer; later it is a 504.")


class ModelVersions(BaseModel):
    """A model and all its versions; only manifests are read, weights are checked on activation."""

    name: str
    active: str | None = Field(description="The version that serves.")
    reason: str | None = Field(description="The code for which none serves.")
    missing: str | None = Field(
        description="The version that was chosen and was not on disk at the start."
    )
    limits: ModelLimits
    versions: list[VersionOnDisk]


class Activation(BaseModel):
    """Which version to serve."""

    version: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]


@router.get("")
async def list_versions(request: Request) -> list[ModelVersions]:
    """Every model with its versions on disk, and the one that serves."""
    repository = services(request).repository
    await repository.look_for_new()
    names = sorted(repository.serving() | repository.refused())
    return [await asyncio.to_thread(_versions, request, name) for name in names]


@router.post("/{name}/activate", responses=problem_docs(404, 409, 415, 503))
async def activate(request: Request, name: str, wanted: Activation) -> ModelVersions:
    """Verify, load and warm a version, then swap; answers when the old one is done, in every
    worker."""
    await services(request).swaps.activate(name, wanted.version)
    return await asyncio.to_thread(_versions, request, name)


@router.post("/{name}/rollback", responses=problem_docs(404, 409, 503))
async def rollback(request: Request, name: str) -> ModelVersions:
    """Activate the version that served before."""
    await services(request).swaps.rollback(name)
    return await asyncio.to_thread(_versions, request, name)


@router.post("/{name}/unload", responses=problem_docs(404, 503))
async def unload(request: Request, name: str) -> ModelVersions:
    """Serve the model no more, until a version is activated; also after a restart."""
    await services(request).swaps.unload(name)
    return await asyncio.to_thread(_versions, request, name)


def _versions(request: Request, name: str) -> ModelVersions:
    repository = services(request).repository
    model = repository.entry(name)
    active = None if isinstance(model, RefusedModel) else model.manifest.version
    folders = version_folders(services(request).settings.models_dir / name)
    found = []
    for folder in folders:
        try:
            version, refused = read_manifest(folder).version, None
        except FendError as error:
            version, refused = None, error.code
        found.append(
            VersionOnDisk(
                folder=folder.name,
                version=version,
                active=version is not None and version == active,
                refused=refused,
            )
        )
    reason = model.error.code if isinstance(model, RefusedModel) else None
    limits = services(request).settings.limits_of(name)
    return ModelVersions(
        name=name,
        active=active,
        reason=reason,
        missing=repository.missing.get(name),
        limits=ModelLimits(**asdict(limits)),
        versions=found,
    )
