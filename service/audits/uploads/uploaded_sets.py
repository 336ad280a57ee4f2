"""The data sets that were uploaded: received, checked in a process of their own, kept, deleted.

STATE/datasets/ID/              complete sets; a set appears here in one step
STATE/datasets/.incoming-N-*    unfinished uploads of process N; deleted when it starts again
"""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from pydantic import ValidationError

from fend.bundles import Manifest
from fend.datasets import InvalidDatasetError
from fend.errors import Busy, Conflict, FendError, NotFound, TooLarge
from fend.files import sync
from service.audits.uploads.upload_work import (
    FILE,
    UPLOAD_RESULT,
    Kept,
    UploadTask,
    kept_folder,
    storage_full,
)
from service.audits.uploads.uploaded_set import ID_DIGITS, PREFIX, SetSummary, UploadedSet
from service.audits.worker_process import said_by, worker_process
from service.settings import Settings
from service.state.database import Database
from service.state.tables import audits, is_pending, uploads
from service.state.trouble import StateUnavailable

FOLDER = "datasets"
_INCOMING = ".incoming-"
_INCOMING_OF_A_SLOT = re.compile(rf"{re.escape(_INCOMING)}\d+-")
_ID = re.compile(f"[0-9a-f]{{{ID_DIGITS}}}")


class UploadedSets:
    """The sets: listed in the database, each with its images in a folder. `open` it before use."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._folder = settings.state_dir.resolve() / FOLDER
        self._receiving = False

    async def open(self) -> None:
        """Make the folder, delete what an interrupted upload left, list every set in it.

        Raises:
            StateUnavailable.
        """
        try:
            await asyncio.to_thread(self._open)
        except OSError as error:
            raise StateUnavailable(
                f"{self._folder} cannot be used: {error}; set FEND_STATE_DIR to a writable folder"
            ) from error

    @asynccontextmanager
    async def receiving(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[Path]:
        """A folder with the uploaded file, for `check_and_keep`; both are gone after the block.

        Raises:
            TooLarge, Unavailable (`dataset_storage_full`).
            Busy: another one is being received.
        """
        if self._receiving:
            raise Busy(
                "another data set is being uploaded; try again when that is done",
                code="upload_busy",
            )
        self._receiving = True
        try:
            async with self._incoming() as folder:
                await self._receive(chunks, folder / FILE)
                yield folder
        except OSError as error:
            raise storage_full(
                f"the upload cannot be written: {error.strerror}; make room on the disk of "
                "FEND_STATE_DIR, or delete a set with DELETE /v1/admin/datasets/ID"
            ) from error
        finally:
            self._receiving = False

    async def all(self) -> list[SetSummary]:
        """Every set, newest first."""
        return await asyncio.to_thread(self._all)

    async def get(self, set_id: str) -> UploadedSet:
        """One set; raises NotFound."""
        return await asyncio.to_thread(UploadedSet.read, self.folder_of(PREFIX + set_id))

    async def delete(self, set_id: str) -> None:
        """Delete a set.

        Raises:
            NotFound.
            Conflict: a queued or running audit needs it.
        """
        folder = (await self.get(set_id)).folder
        await asyncio.to_thread(self._delete, set_id, folder)

    def folder_of(self, dataset: str) -> Path:
        """Where the set that an audit calls `dataset` is; raises NotFound."""
        set_id = dataset.removeprefix(PREFIX)
        if not _ID.fullmatch(set_id):
            raise NotFound(
                f"dataset: {dataset!r} is no id of an uploaded data set; "
                "GET /v1/admin/datasets lists them",
                code="upload_unknown",
            )
        return self._folder / set_id

    async def _receive(self, chunks: AsyncIterator[bytes], path: Path) -> None:
        used_bytes = sum(summary.bytes for summary in await self.all())
        received_bytes = 0
        with path.open("xb") as file:
            async for chunk in chunks:
                received_bytes += len(chunk)
                if received_bytes > self._settings.max_dataset_bytes:
                    raise TooLarge(
                        f"the upload has more than {self._settings.max_dataset_bytes} bytes",
                        code="dataset_too_large",
                    )
                self._check_room(used_bytes + received_bytes)
                await asyncio.to_thread(file.write, chunk)

    async def check_and_keep(self, folder: Path, model: Manifest | None) -> tuple[SetSummary, bool]:
        """Keep the data set in a zip of class folders, or an .npz file; whether it is a new one.

        With `model`, pictures are brought to what it takes and classes are counted by its labels.
        Cancelling gives it up at once.

        Raises:
            Invalid, RemoteError: it is no data set, or not within the limits.
            Unavailable (`dataset_storage_full`).
        """
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
        summary = await _check(task)
        target = self._folder / summary.id
        if target.exists():
            return (await self.get(summary.id)).summary, False
        self._check_room(sum(kept.bytes for kept in await self.all()) + summary.bytes)
        await asyncio.to_thread(self._keep, kept_folder(task), target, summary)
        return summary, True

    def _check_room(self, needed_bytes: int) -> None:
        if needed_bytes > self._settings.max_datasets_bytes:
            raise storage_full(
                f"uploaded data sets may take {self._settings.max_datasets_bytes} bytes in all; "
                "delete one with DELETE /v1/admin/datasets/ID"
            )

    @asynccontextmanager
    async def _incoming(self) -> AsyncIterator[Path]:
        """A folder of its own on the same disk, which is gone afterwards."""
        path = Path(tempfile.mkdtemp(prefix=self._incoming_prefix, dir=self._folder))
        try:
            yield path
        finally:
            await asyncio.to_thread(shutil.rmtree, path, True)

    @property
    def _incoming_prefix(self) -> str:
        return f"{_INCOMING}{self._database.slot}-"

    def _keep(self, folder: Path, target: Path, summary: SetSummary) -> None:
        """Put a complete set in its place, so that it is there after a power loss too."""
        os.rename(folder, target)
        if os.name == "posix":
            sync(target.parent)
        try:
            self._list([summary])
        except StateUnavailable as error:
            shutil.rmtree(target, ignore_errors=True)
            raise storage_full(str(error)) from error

    def _list(self, new: list[SetSummary]) -> None:
        rows = [
            {"id": s.id, "created_at": s.created_at, "bytes": s.bytes, "text": s.model_dump_json()}
            for s in new
        ]
        statement = self._database.insert(uploads).values(summary=sa.bindparam("text"))
        with self._database.writing() as db:
            db.execute(statement.on_conflict_do_nothing(), rows)

    def _delete(self, set_id: str, folder: Path) -> None:
        """In one transaction with the question whether an audit needs it. The files go first: on a
        full disk they make the room that the database needs."""
        this = uploads.c.id == set_id
        users = sa.select(audits.c.id, audits.c.state).where(
            is_pending, audits.c.dataset == PREFIX + set_id
        )
        with self._database.writing() as db:
            db.execute(sa.select(uploads.c.id).where(this).with_for_update())
            user = db.execute(users).first()
            if user is not None:
                raise Conflict(
                    f"the audit {user.id} is {user.state} and needs this data set; wait for its "
                    "end, or cancel it",
                    code="dataset_in_use",
                )
            grave = self._folder / f"{self._incoming_prefix}{set_id}"
            os.rename(folder, grave)  # gone in one step; no new folder: the disk may be full
            shutil.rmtree(grave, ignore_errors=True)
            db.execute(sa.delete(uploads).where(this))

    def _all(self) -> list[SetSummary]:
        found = []
        with self._database.reading() as db:
            newest_first = sa.select(uploads.c.id, uploads.c.summary).order_by(
                uploads.c.created_at.desc()
            )
            for set_id, text in db.execute(newest_first):
                try:
                    found.append(SetSummary.model_validate_json(text))
                except ValidationError as error:
                    self._database.skip("upload", set_id, error)
        return [summary for summary in found if (self._folder / summary.id).is_dir()]

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for path in self._folder.glob(f"{_INCOMING}*"):
            ours = path.name.startswith(self._incoming_prefix)
            if ours or not _INCOMING_OF_A_SLOT.match(path.name):
                shutil.rmtree(path)
        # Sets of an older version, or of a process that died before it could list one.
        listed = {summary.id for summary in self._all()}
        found = [path for path in self._folder.iterdir() if _ID.fullmatch(path.name)]
        new = []
        for path in found:
            if path.name not in listed:
                try:
                    new.append(UploadedSet.read(path).summary)
                except FendError as error:
                    self._database.skip("upload", path.name, error)
        if new:
            self._list(new)


async def _check(task: UploadTask) -> SetSummary:
    # Somebody waits for it, so it is not behind anything.
    async with worker_process("upload", "normal", task.model_dump_json()) as worker:
        async for result in said_by(worker, UPLOAD_RESULT):
            if isinstance(result, Kept):
                return result.summary
    raise InvalidDatasetError(
        "the process that checks the upload died, perhaps for want of memory; the service's log "
        "may say why. Try a smaller data set"
    )
