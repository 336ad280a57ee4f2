"""Audits as the routes see them: accepted, listed, followed, cancelled; a restart loses none."""

import asyncio
import secrets
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from fend.audit import (
    AuditSpec,
    OpenAudit,
    Report,
    Row,
    check_fit,
    check_surrogate,
    from_request,
    spec_invalid,
)
from fend.audit.estimate import most_s
from fend.audit.spec import defaults_of
from fend.datasets import ImageSet, load
from fend.datasets.registry import LOCAL
from fend.errors import Conflict, FendError, Invalid, NotFound
from fend.images import InputSpec
from service.audits.record import AuditRecord, AuditState, ChangeNotifier, Waiting
from service.audits.runner import AuditRunner
from service.audits.served_check import OwnService
from service.audits.store import AuditStore, FinishedShard
from service.audits.uploads.uploaded_set import PREFIX
from service.audits.uploads.uploaded_sets import UploadedSets
from service.inference.repository import Repository
from service.observe.metrics import Metrics
from service.settings import Settings
from service.state.database import Database

LIST_LIMIT = 200


class AuditUnknown(NotFound):
    """No audit has this id."""

    code = "audit_unknown"


class AuditJobs:
    """Accepts, follows and cancels audits; `AuditRunner` runs them. `start` and `stop` it around
    its use."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        database: Database,
        metrics: Metrics,
        own: OwnService | None = None,
    ) -> None:
        """`own`: where this service answers, for comparing with what it serves; None: it is not
        known."""
        self._settings = settings
        self._repository = repository
        self._database = database
        self._store = AuditStore(database)
        self._metrics = metrics
        self._own = own
        self._most_s: dict[str, float] = {}
        self._partial: tuple[str, int, Report] | None = None
        self.uploads = UploadedSets(settings, database)
        self.changes = ChangeNotifier()
        for state in AuditState:  # 0 from the start: an increase from nothing to 1 goes unseen
            metrics.audits.labels(state)

    async def start(self) -> None:
        """Go on with whatever was accepted before; the database is open.

        Raises:
            StateUnavailable.
        """
        await self.uploads.open()
        self._runner = AuditRunner(
            self._settings, self._repository, self.uploads, self._database, self._store,
            self._metrics, self.changes, self._own,
        )  # fmt: skip
        await asyncio.to_thread(self._runner.apply_retention, datetime.now(UTC))
        for model in self._repository.serving():
            last = await self.last_succeeded(model)
            if last is not None:
                self._runner.publish(last[1])
        self._runner.start()

    async def stop(self) -> None:
        """Stop the worker; the audit goes on from its last finished shard at the next start."""
        await self._runner.stop()

    async def trouble(self) -> str | None:
        """Why audits cannot be kept just now; None: nothing is known to be wrong."""
        await asyncio.to_thread(self._database.check_again)
        return self._database.trouble

    def spec_of(self, body: Mapping[str, Any]) -> AuditSpec:
        """See `from_request`: a preset fits itself to the model, where that is served."""
        try:
            manifest = self._repository.get(str(body.get("model"))).manifest
        except FendError:
            return from_request(body)  # whoever submits it is told
        defaults = defaults_of(manifest.about)
        if str(defaults.get("dataset")).startswith(LOCAL):  # files, which requests may not read
            del defaults["dataset"]
        return from_request(body, len(manifest.content.labels), defaults)

    async def submit(self, spec: AuditSpec, idempotency_key: str | None = None) -> AuditRecord:
        """Accept an audit; it is on disk when this returns.

        The same `idempotency_key` again gives the audit that it was accepted with.

        Raises:
            NotFound, Unavailable, Invalid: it could not run.
            Invalid: the key came with another spec before.
            StateUnavailable: it cannot be kept.
        """
        if idempotency_key is not None:
            known = await asyncio.to_thread(self._store.by_idempotency_key, idempotency_key)
            if known is not None:
                return _same_request(known, spec)
        model = self._repository.get(spec.model)
        images = await self._load(spec.dataset, model.manifest.content.input)
        images = check_fit(spec, model.manifest, images)
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
        opened = OpenAudit(spec, model.bundle, images)
        if opened.device.type == "cpu":  # a GPU's passes would be in the way of what is served
            most = await asyncio.to_thread(most_s, opened, time.monotonic)
            self._most_s[record.id] = round(most, 1)
        if not await asyncio.to_thread(self._store.add, record, idempotency_key):
            return await self.submit(spec, idempotency_key)  # the same request came twice at once
        self._metrics.audits.labels(AuditState.QUEUED).inc()
        self._runner.wake()
        return record

    async def _load(self, dataset: str, takes: InputSpec) -> ImageSet:
        if dataset.startswith(LOCAL):
            raise spec_invalid(
                f"dataset: {', '.join(LOCAL)} name files of the service's machine, which requests "
                "may not read; upload them with POST /v1/admin/datasets, or name another data set"
            )
        if dataset.startswith(PREFIX):
            uploaded = await self.uploads.get(dataset.removeprefix(PREFIX))
            return await asyncio.to_thread(uploaded.load)
        return await asyncio.to_thread(load, dataset, self._settings.data_dir, takes)

    async def newest(self) -> list[AuditRecord]:
        """The last audits, newest first."""
        return await asyncio.to_thread(self._store.newest, LIST_LIMIT)

    async def get(self, audit_id: str) -> AuditRecord:
        """One audit; raises AuditUnknown."""
        record = await asyncio.to_thread(self._store.get, audit_id)
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
            Conflict: it succeeded or failed before.
        """
        await self.get(audit_id)
        await self._runner.cancel(audit_id)
        record = await self.get(audit_id)
        if record.state is not AuditState.CANCELLED:
            raise Conflict(
                f"the audit has {record.state} and cannot be cancelled any more", code="audit_ended"
            )
        return record

    def eta_s(self, record: AuditRecord) -> float | None:
        """How long an audit still takes at its pace so far; before its first shard, at most. None
        while that is unknown."""
        if record.done:
            self._most_s.pop(record.id, None)
        return self._runner.eta_s(record) or self._most_s.get(record.id)

    def waiting(self, record: AuditRecord) -> Waiting | None:
        """Why an audit does not go on, or goes on slowly; None: nothing is known to be so."""
        return self._runner.waiting(record)

    async def result(self, record: AuditRecord) -> Report | None:
        """The report of a finished audit, or of the shards so far; None before the first."""
        finished = await asyncio.to_thread(self._store.result, record.id)
        if finished is not None or record.done == 0 or not record.rows_kept:
            return finished
        if self._partial is None or self._partial[:2] != (record.id, record.done):
            report = await asyncio.to_thread(self._runner.build, record)
            self._partial = (record.id, record.done, report)
        return self._partial[2]

    async def report(self, record: AuditRecord) -> Report:
        """The report of a finished audit; raises Conflict."""
        finished = await asyncio.to_thread(self._store.result, record.id)
        if finished is not None:
            return finished
        if record.state is AuditState.SUCCEEDED:
            reason = "its report was made by an older version of Fend; start the audit again"
        elif record.state.ended:
            reason = f"it has {record.state}"
        else:
            reason = f"it is {record.state}; wait until it has succeeded"
        raise Conflict(f"the audit has no report: {reason}", code="audit_not_finished")

    def rows(self, record: AuditRecord) -> Iterator[list[Row]]:
        """The rows so far, shard by shard; the iterator blocks for the disk: use it in a thread.

        Raises:
            NotFound (`audit_rows_deleted`): only its report is kept.
        """
        if not record.rows_kept:
            raise NotFound(
                "the raw rows of this audit have been deleted, only its report is kept; "
                "FEND_KEEP_AUDIT_ROWS says of how many audits they are",
                code="audit_rows_deleted", status=410,
            )  # fmt: skip
        return self._store.rows(record.id)

    async def shards(self, audit_id: str, first: int) -> list[FinishedShard]:
        """The finished shards from number `first` on."""
        return await asyncio.to_thread(self._store.shards, audit_id, first)

    async def last_succeeded(self, model: str) -> tuple[AuditRecord, Report] | None:
        """The last audit of a model that succeeded, with its report."""
        record = await asyncio.to_thread(self._store.last_succeeded, model)
        report = None if record is None else await asyncio.to_thread(self._store.result, record.id)
        return None if record is None or report is None else (record, report)


def _same_request(known: AuditRecord, spec: AuditSpec) -> AuditRecord:
    # The name of a preset decides nothing, and audits of earlier versions have not kept it.
    if known.spec.model_copy(update={"preset": spec.preset}) != spec:
        raise Invalid(
            f"this Idempotency-Key came with another request before, for the audit {known.id}; "
            "use a new key",
            code="idempotency_key_reused",
        )
    return known
