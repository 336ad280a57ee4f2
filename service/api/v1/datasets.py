"""The routes of uploaded data sets. The app includes this router behind `require_admin`."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from service.api.problems import problem_docs
from service.api.services import services
from service.api.uploads import FORM_TYPE, while_connected
from service.api.v1.dataset_body import FILE_TYPES, file_chunks
from service.audits.jobs import AuditJobs
from service.audits.uploads.uploaded_set import PREFIX, SetSummary

_BINARY = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            FORM_TYPE: {
                "schema": {"type": "object", "required": ["file"], "properties": {"file": _BINARY}}
            },
            **{media_type: {"schema": _BINARY} for media_type in FILE_TYPES},
        },
    }
}


class UploadedDataset(SetSummary, frozen=True):
    """An uploaded data set, and how an audit names it."""

    dataset: str = Field(description="What to write into `dataset` of an audit.")


class UploadedDatasetList(BaseModel):
    """Uploaded data sets, newest first."""

    datasets: list[UploadedDataset]
    bytes: int = Field(description="Disk space that they take together.")
    max_bytes: int


PATH = "/v1/admin/datasets"
router = APIRouter(prefix=PATH, tags=["datasets"], responses=problem_docs(401, 429))


@router.post(
    "",
    status_code=201,
    responses={
        200: {"description": "The same set is here already.", "model": UploadedDataset},
        **problem_docs(400, 404, 408, 413, 415, 422, 503, 507),
    },
    openapi_extra=_BODY,
)
async def upload_dataset(
    request: Request,
    response: Response,
    model: Annotated[
        str | None,
        Query(
            description="Bring pictures to the size that this model takes, as classify does, and "
            "count classes by its labels. Without it all pictures must have one size."
        ),
    ] = None,
) -> UploadedDataset:
    """Keep labelled images for audits: a zip of class folders, or an .npz of `images`, `labels`."""
    manifest = None if model is None else services(request).repository.get(model).manifest
    uploads = _jobs(request).uploads
    async with uploads.receiving(file_chunks(request)) as folder:
        checking = uploads.check_and_keep(folder, manifest)
        summary, is_new = await while_connected(request, checking)
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"{PATH}/{summary.id}"
    return _shown(summary)


@router.get("")
async def list_datasets(request: Request) -> UploadedDatasetList:
    """The uploaded data sets, newest first."""
    found = await _jobs(request).uploads.all()
    return UploadedDatasetList(
        datasets=[_shown(summary) for summary in found],
        bytes=sum(summary.bytes for summary in found),
        max_bytes=services(request).settings.max_datasets_bytes,
    )


@router.get("/{dataset_id}", responses=problem_docs(404, 422))
async def get_dataset(request: Request, dataset_id: str) -> UploadedDataset:
    """One uploaded data set."""
    return _shown((await _jobs(request).uploads.get(dataset_id)).summary)


@router.delete("/{dataset_id}", status_code=204, responses=problem_docs(404, 409, 422))
async def delete_dataset(request: Request, dataset_id: str) -> None:
    """Delete a data set that no queued or running audit needs."""
    await _jobs(request).uploads.delete(dataset_id)


def _jobs(request: Request) -> AuditJobs:
    return services(request).audits


def _shown(summary: SetSummary) -> UploadedDataset:
    return UploadedDataset(**summary.model_dump(), dataset=PREFIX + summary.id)
