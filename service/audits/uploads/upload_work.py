"""What a worker process does with an uploaded file: unpack it, read it, keep it decoded.

In a process of its own, because the file is a stranger's and may take all the memory it can.
"""

import errno
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, TypeAdapter

from fend.datasets import ImageSet, InvalidDatasetError, folder, npz
from fend.errors import FendError, RemoteError, Unavailable
from fend.images import DecodeLimits, InputSpec
from service.audits.messages import Failed
from service.audits.uploads.archive import is_npz, open_archive, unpack
from service.audits.uploads.uploaded_set import SetSummary, UploadedSet

FILE = "upload"
_UNPACKED = "unpacked"
_KEPT = "kept"


def storage_full(message: str) -> Unavailable:
    """The error where there is no room for another uploaded data set."""
    return Unavailable(message, code="dataset_storage_full", status=507)


class UploadTask(BaseModel, frozen=True):
    """What a worker needs to know."""

    folder: Path
    """Holds the file `upload`, and is the worker's to use."""
    input_spec: InputSpec | None
    """Input that the pictures of class folders are converted to; None: they keep their size."""
    labels: tuple[str, ...] | None
    """Labels that the classes are counted by; None: the set's own."""
    max_files: int
    max_bytes: int
    """Unpacked, and decoded."""
    max_file_bytes: int
    max_file_pixels: int
    now: datetime


class Kept(BaseModel, frozen=True):
    """The set is in the folder `kept` of the task's folder."""

    kind: Literal["kept"] = "kept"
    summary: SetSummary


UPLOAD_RESULT: TypeAdapter[Kept | Failed] = TypeAdapter(
    Annotated[Kept | Failed, Field(discriminator="kind")]
)


def kept_folder(task: UploadTask) -> Path:
    """Where the worker leaves the set."""
    return task.folder / _KEPT


def run(text: str, send_line: Callable[[bytes], None]) -> None:
    """Carry out an `UploadTask`, given as JSON; says what it kept.

    Raises:
        RemoteError: the file is no data set, in words for whoever sent it.
    """
    torch.set_num_threads(1)
    task = UploadTask.model_validate_json(text)
    try:
        kept = Kept(summary=_work(task))
    except FendError as error:
        message = _public(str(error), task.folder)
        raise RemoteError(message, code=error.code, status=error.status) from error
    send_line(kept.model_dump_json().encode())


def _work(task: UploadTask) -> SetSummary:
    try:
        image_set = _read(task)
        if len(image_set) > task.max_files:
            raise InvalidDatasetError(
                f"the upload holds {len(image_set)} images, at most {task.max_files} are accepted"
            )
        if task.labels is not None:
            image_set = image_set.relabelled(task.labels)
        kept_folder(task).mkdir()
        return UploadedSet.write(kept_folder(task), image_set, task.now).summary
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise storage_full(
            "the service's disk is full; make room on the disk of FEND_STATE_DIR, or delete a set "
            "with DELETE /v1/admin/datasets/ID"
        ) from error


def _read(task: UploadTask) -> ImageSet:
    file, unpacked = task.folder / FILE, task.folder / _UNPACKED
    with open_archive(file, task.max_files) as archive:
        arrays = is_npz(archive)
        if not arrays:
            unpacked.mkdir()
            unpack(archive, unpacked, max_files=task.max_files, max_bytes=task.max_bytes)
    if arrays:
        return npz.load(file, max_array_bytes=task.max_bytes)
    limits = DecodeLimits(task.max_file_bytes, task.max_file_pixels)
    return folder.load(unpacked, task.input_spec, limits, max_total_bytes=task.max_bytes)


def _public(message: str, private: Path) -> str:
    """Messages of the readers name files of ours; the uploader knows them by shorter names."""
    return message.replace(f"{private / _UNPACKED}/", "").replace(
        str(private / _UNPACKED), "the upload"
    ).replace(str(private / FILE), "the upload")  # fmt: skip
