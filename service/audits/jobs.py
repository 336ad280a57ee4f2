"""Audits as the routes see them: accepted, listed, followed, cancelled; a restart loses none."""

import asyncio
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

from fend.audit import AuditSpec, AuditSpecInvalid, Report, Row, check_fit, check_surrogate
from fend.datasets import ImageSet, load
from fend.errors import FendError
from service.audits.changes import Changes
from service.audits.record import AuditRecord, AuditState
from service.audits.retention import apply_retention
from service.audits.runner import AuditRunner
from service.audits.served_check import OwnService
from service.audits.store import AuditStore, FinishedShard
from service.datasets.uploaded_set import PREFIX
from service.datasets.uploaded_sets import UploadedSets
from service.inference.repository import Repository
from service.runtime.metrics import Metrics
from service.settings import Settings

LIST_LIMIT = 200

_T = TypeVar("_T")


class AuditUnknown(FendError):
    """No audit has this id."""

    code = "audit_unknown"


class AuditNotFinished(FendError):
    """There is no report yet, or there will never be one."""

    code = "audit_not_finished"


class AuditEnded(FendError):
    """What has ended cannot be cancelled."""

    code = "audit_ended"


class AuditRowsDeleted(FendError):
    """The audit is so old that only its report is kept."""

    code = "audit_rows_deleted"


class IdempotencyKeyReused(FendError):
    """One key, two different requests."""

    code = "idempotency_key_reused"


class DatasetInUse(FendError):
    """An audit that has not ended needs this data set."""

    code = "dataset_in_use"


class AuditJobs:
    """Accepts, follows and cancels audits; `AuditRunner` runs them. `start` and `stop` it around
    its use."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        metrics: Metrics,
        own: OwnService | None = None,
    ) -> None:
        """`own`: where this service answers, for comparing with what it serves; None: it is not
        known."""
        self._settings = settings
        self._repository = repository
        self._metrics = metrics
        self._own = own
        self._partial: tuple[str, int, Report] | None = None
        self._accepting = asyncio.Lock()
        self.uploads = UploadedSets(settings)
        self.changes = Changes()
        for state in AuditState:  # 0 from the start: an increase from nothing to 1 goes unseen
            metrics.audits.labels(state)

    async def start(self) -> None:
        """Open the file and go on with whatever was accepted before.

        Raises:
            StateUnavailable.
        """
        self._store = await asyncio.to_thread(
            AuditStore, self._settings.state_dir, self._metrics.state_failures.inc
        )
        await self.uploads.open()
        await self._in_thread(apply_retention, self._store, self._settings, datetime.now(UTC))
        self._runner = AuditRunner(
            self._settings, self._repository, self.uploads, self._store, self._metrics,
            self.changes, self._own,
        )  # fmt: skip
        for model in self._repository.serving():
            last = await self.last_succeeded(model)
            if last is not None:
                self._runner.publish(last[1])
        self._runner.start()

    async def stop(self) -> None:
        """Stop the worker; the audit goes on from its last finished shard at the next start."""
        await self._runner.stop()
        await asyncio.to_thread(self._store.close)

    async def trouble(self) -> str | None:
        """Why audits cannot be kept just now; None: nothing is known to be wrong."""
        await self._in_thread(self._store.look_again)
        return self._store.trouble

    async def submit(self, spec: AuditSpec, idempotency_key: str | None = None) -> AuditRecord:
        """Accept an audit; it is on disk when this returns.

        The same `idempotency_key` again gives the audit that it was accepted with.

        Raises:
            ModelUnknown, BundleError, DatasetError, AuditSpecInvalid, SurrogateMissing: it could
                not run.
            IdempotencyKeyReused: the key came with another spec before.
            StateUnavailable: it cannot be kept.
        """
        async with self._accepting:  # so that no data set is deleted in between
            return await self._submit(spec, idempotency_key)

    async def _submit(self, spec: AuditSpec, idempotency_key: str | None) -> AuditRecord:
        if idempotency_key is not None:
            known = await self._in_thread(self._store.by_idempotency_key, idempotency_key)
            if known is not None:
                return _same_request(known, spec)
        model = self._repository.get(spec.model)
        images = await self._load(spec.dataset)
        check_fit(spec, model.manifest, images)
        check_surrogate(
            spec, model.manifest, self._settings.models_dir, self._settings.state_dir / "surrogates"
        )
        record = AuditRecord(
            id=secrets.token_hex(8),
            state=AuditState.QUEUED,
            spec=spec,
            model_version=model.manifest.version,
            total=min(spec.samples or len(images), len(images)),
            done=0,
            created_at=datetime.now(UTC),
        )
        await self._in_thread(self._store.add, record, idempotency_key)
        self._metrics.audits.labels(AuditState.QUEUED).inc()
        self._runner.wake()
        return record

    async def _load(self, dataset: str) -> ImageSet:
        if dataset.startswith(("folder:", "npz:")):
            raise AuditSpecInvalid(
                "dataset: folder: and npz: name files of the service's machine, which requests "
                "may not read; upload them with POST /v1/admin/datasets, or name another data set"
            )
        if dataset.startswith(PREFIX):
            uploaded = await self.uploads.get(dataset.removeprefix(PREFIX))
            return await asyncio.to_thread(uploaded.load)
        return await asyncio.to_thread(load, dataset, self._settings.data_dir)

    async def delete_dataset(self, set_id: str) -> None:
        """Delete an uploaded data set.

        Raises:
            UploadUnknown.
            DatasetInUse: an audit still needs it.
        """
        async with self._accepting:
            user = await self._in_thread(self._store.pending_on, PREFIX + set_id)
            if user is not None:
                raise DatasetInUse(
                    f"the audit {user.id} is {user.state} and needs this data set; wait for its "
                    "end, or cancel it"
                )
            await self.uploads.delete(set_id)

    async def newest(self) -> list[AuditRecord]:
        """The last audits, newest first."""
        return await self._in_thread(self._store.newest, LIST_LIMIT)

    async def get(self, audit_id: str) -> AuditRecord:
        """One audit; raises AuditUnknown."""
        record = await self._in_thread(self._store.get, audit_id)
        if record is None:
            raise AuditUnknown(f"no audit has the id {audit_id!r}; GET /v1/admin/audits lists them")
        return record

    async def wait_for_end(self, audit_id: str) -> None:
        """Return when an audit has ended; raises AuditUnknown."""
        while True:
            seen = self.changes.count
            if (await self.get(audit_id)).state.ended:
                return
            await self.changes.after(seen)

    async def cancel(self, audit_id: str) -> AuditRecord:
        """Stop an audit for good; what it attacked so far is kept.

        Raises:
            AuditUnknown.
            AuditEnded: it succeeded or failed before.
        """
        await self.get(audit_id)
        await self._runner.cancel(audit_id)
        record = await self.get(audit_id)
        if record.state is not AuditState.CANCELLED:
            raise AuditEnded(f"the audit has {record.state} and cannot be cancelled any more")
        return record

    def eta_s(self, record: AuditRecord) -> float | None:
        """How long a running audit still takes at its pace so far; None while that is unknown."""
        return self._runner.eta_s(record)

    async def result(self, record: AuditRecord) -> Report | None:
        """The report of a finished audit, or of the shards so far; None before the first."""
        finished = await self._in_thread(self._store.result, record.id)
        if finished is not None or record.done == 0 or not record.rows_kept:
            return finished
        if self._partial is None or self._partial[:2] != (record.id, record.done):
            report = await self._in_thread(self._runner.build, record)
            self._partial = (record.id, record.done, report)
        return self._partial[2]

    async def report(self, record: AuditRecord) -> Report:
        """The report of a finished audit; raises AuditNotFinished."""
        finished = await self._in_thread(self._store.result, record.id)
        if finished is not None:
            return finished
        if record.state is AuditState.SUCCEEDED:
            reason = "its report was made by an older version of Fend; start the audit again"
        elif record.state.ended:
            reason = f"it has {record.state}"
        else:
            reason = f"it is {record.state}; wait until it has succeeded"
        raise AuditNotFinished(f"the audit has no report: {reason}")

    def rows(self, record: AuditRecord) -> Iterator[list[Row]]:
        """The rows so far, shard by shard; the iterator blocks for the disk: use it in a thread.

        Raises:
            AuditRowsDeleted.
        """
        if not record.rows_kept:
            raise AuditRowsDeleted(
                "the raw rows of this audit have been deleted, only its report is kept; "
                "FEND_KEEP_AUDIT_ROWS says of how many audits they are"
            )
        return self._store.rows(record.id)

    async def shards(self, audit_id: str, first: int) -> list[FinishedShard]:
        """The finished shards from number `first` on."""
        return await self._in_thread(self._store.shards, audit_id, first)

    async def last_succeeded(self, model: str) -> tuple[AuditRecord, Report] | None:
        """The last audit of a model that succeeded, with its report."""
        record = await self._in_thread(self._store.last_succeeded, model)
        report = None if record is None else await self._in_thread(self._store.result, record.id)
        return None if record is None or report is None else (record, report)

    async def _in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.to_thread(function, *arguments)


def _same_request(known: AuditRecord, spec: AuditSpec) -> AuditRecord:
    if known.spec != spec:
        raise IdempotencyKeyReused(
            f"this Idempotency-Key came with another request before, for the audit {known.id}; "
            "use a new key"
        )
    return known
