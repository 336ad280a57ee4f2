"""The data sets that were uploaded: received, checked in a process of their own, kept, deleted.

STATE/datasets/ID/             complete sets; a set appears here in one step
STATE/datasets/.incoming-*     uploads in the works; thrown away when the service starts
"""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from fend.bundles import Manifest
from fend.datasets import InvalidDatasetError
from fend.errors import FendError
from service.datasets.upload_work import (
    FILE,
    UPLOAD_RESULT,
    DatasetStorageFull,
    Refused,
    UploadTask,
    kept_folder,
)
from service.datasets.uploaded_set import ID_DIGITS, PREFIX, SetSummary, UploadedSet, UploadUnknown
from service.runtime.state import StateUnavailable
from service.runtime.worker_process import worker_process
from service.settings import Priority, Settings

FOLDER = "datasets"
_INCOMING = ".incoming-"
_ID = re.compile(f"[0-9a-f]{{{ID_DIGITS}}}")


class DatasetTooLarge(FendError):
    """The uploaded file is longer than the service takes."""

    code = "dataset_too_large"


class UploadBusy(FendError):
    """Uploads are taken one at a time."""

    code = "upload_busy"


class UploadFailed(FendError):
    """The worker refused the file; `code` is that of its error."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class UploadedSets:
    """The folder of sets. `open` it before its use."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.state_dir.resolve() / FOLDER
        self._receiving = False

    async def open(self) -> None:
        """Make the folder, and throw away what an interrupted upload left.

        Raises:
            StateUnavailable.
        """
        try:
            await asyncio.to_thread(self._clean)
        except OSError as error:
            raise StateUnavailable(
                f"{self._folder} cannot be used: {error}; set FEND_STATE_DIR to a writable folder"
            ) from error

    async def add(
        self, chunks: AsyncIterator[bytes], model: Manifest | None
    ) -> tuple[SetSummary, bool]:
        """Keep the data set in a zip of class folders, or an .npz file; whether it is a new one.

        With `model`, pictures are brought to what it takes and classes are counted by its labels.

        Raises:
            DatasetError, UploadFailed: it is no data set, or not within the limits.
            DatasetTooLarge, DatasetStorageFull, UploadBusy.
        """
        if self._receiving:
            raise UploadBusy("another data set is being uploaded; try again when that is done")
        self._receiving = True
        try:
            async with self._incoming() as folder:
                await self._receive(chunks, folder / FILE)
                return await self._check_and_keep(folder, model)
        except OSError as error:
            raise DatasetStorageFull(
                f"the upload cannot be written: {error.strerror}; make room on the disk of "
                "FEND_STATE_DIR, or delete a set with DELETE /v1/admin/datasets/ID"
            ) from error
        finally:
            self._receiving = False

    async def all(self) -> list[SetSummary]:
        """Every set, newest first."""
        return await asyncio.to_thread(self._all)

    async def get(self, set_id: str) -> UploadedSet:
        """One set; raises UploadUnknown."""
        return await asyncio.to_thread(UploadedSet.read, self.folder_of(PREFIX + set_id))

    async def delete(self, set_id: str) -> None:
        """Delete a set that no audit needs any more; raises UploadUnknown."""
        folder = (await self.get(set_id)).folder
        grave = self._folder / f"{_INCOMING}{set_id}"  # no new folder: the disk may be full
        await asyncio.to_thread(os.rename, folder, grave)  # gone in one step
        await asyncio.to_thread(shutil.rmtree, grave, True)

    def folder_of(self, dataset: str) -> Path:
        """Where the set that an audit calls `dataset` is; raises UploadUnknown."""
        set_id = dataset.removeprefix(PREFIX)
        if not _ID.fullmatch(set_id):
            raise UploadUnknown(
                f"dataset: {dataset!r} is no id of an uploaded data set; "
                "GET /v1/admin/datasets lists them"
            )
        return self._folder / set_id

    async def _receive(self, chunks: AsyncIterator[bytes], path: Path) -> None:
        used_bytes = sum(summary.bytes for summary in await self.all())
        received_bytes = 0
        with path.open("xb") as file:
            async for chunk in chunks:
                received_bytes += len(chunk)
                if received_bytes > self._settings.max_dataset_bytes:
                    raise DatasetTooLarge(
                        f"the upload has more than {self._settings.max_dataset_bytes} bytes"
                    )
                self._check_room(used_bytes + received_bytes)
                await asyncio.to_thread(file.write, chunk)

    async def _check_and_keep(
        self, folder: Path, model: Manifest | None
    ) -> tuple[SetSummary, bool]:
        settings = self._settings
        task = UploadTask(
            folder=folder,
            input_spec=None if model is None else model.content.input,
            labels=None if model is None else tuple(model.content.labels),
            max_files=settings.max_dataset_images,
            max_bytes=settings.max_dataset_bytes,
            max_file_bytes=settings.max_body_bytes,
            max_file_pixels=settings.max_pixels,
            now=datetime.now(UTC),
        )
        summary = await _check(task, settings.worker_priority)
        target = self._folder / summary.id
        if target.exists():
            return (await self.get(summary.id)).summary, False
        self._check_room(sum(kept.bytes for kept in await self.all()) + summary.bytes)
        await asyncio.to_thread(_move, kept_folder(task), target)
        return summary, True

    def _check_room(self, needed_bytes: int) -> None:
        if needed_bytes > self._settings.max_datasets_bytes:
            raise DatasetStorageFull(
                f"uploaded data sets may take {self._settings.max_datasets_bytes} bytes in all; "
                "delete one with DELETE /v1/admin/datasets/ID"
            )

    @asynccontextmanager
    async def _incoming(self) -> AsyncIterator[Path]:
        """A folder of its own on the same disk, which is gone afterwards."""
        path = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self._folder))
        try:
            yield path
        finally:
            await asyncio.to_thread(shutil.rmtree, path, True)

    def _all(self) -> list[SetSummary]:
        names = [path.name for path in self._folder.iterdir() if _ID.fullmatch(path.name)]
        found = []
        for name in names:
            with suppress(UploadUnknown):  # deleted a moment ago
                found.append(UploadedSet.read(self._folder / name).summary)
        return sorted(found, key=lambda summary: summary.created_at, reverse=True)

    def _clean(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob(f"{_INCOMING}*"):
            shutil.rmtree(path)


async def _check(task: UploadTask, priority: Priority) -> SetSummary:
    async with worker_process("upload", priority, task.model_dump_json()) as worker:
        assert worker.stdout is not None
        line = await worker.stdout.readline()
        if not line.endswith(b"\n"):
            raise InvalidDatasetError(
                "the process that checks the upload died, perhaps for want of memory; the "
                "service's log may say why. Try a smaller data set"
            )
        result = UPLOAD_RESULT.validate_json(line)
    if isinstance(result, Refused):
        raise UploadFailed(result.code, result.message)
    return result.summary


def _move(folder: Path, target: Path) -> None:
    """Put a complete set in its place, so that it is there after a power loss too."""
    os.rename(folder, target)
    if sys.platform == "win32":
        return
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
