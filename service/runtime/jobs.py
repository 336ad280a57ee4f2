"""The queue of audits: one runs at a time, the rest wait, and a restart loses none of them."""

import asyncio
import functools
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, TypeVar

import structlog

from fend.audit import AuditSpec, AuditSpecInvalid, Report, Row, Source, build_report, check_fit
from fend.datasets import load
from fend.errors import FendError
from service.runtime.audit_store import AuditRecord, AuditState, AuditStore
from service.runtime.audit_worker import AuditInputsChanged, ShardDone, Task
from service.runtime.engine import pick_device
from service.runtime.executor import execute
from service.runtime.metrics import Metrics
from service.runtime.repository import Repository
from service.settings import Settings

LIST_LIMIT = 200
RETRY_DELAY_S = 5.0
"""After the disk refused a write."""

_T = TypeVar("_T")


class AuditUnknown(FendError):
    """No audit has this id."""

    code: ClassVar[str] = "audit_unknown"


class AuditNotFinished(FendError):
    """There is no report yet, or there will never be one."""

    code: ClassVar[str] = "audit_not_finished"


class AuditEnded(FendError):
    """What has ended cannot be cancelled."""

    code: ClassVar[str] = "audit_ended"


class AuditCrashed(FendError):
    """A bug in Fend ended the audit."""

    code: ClassVar[str] = "audit_crashed"


class IdempotencyKeyReused(FendError):
    """One key, two different requests."""

    code: ClassVar[str] = "idempotency_key_reused"


@dataclass
class _Run:
    """The audit that runs now."""

    audit_id: str
    task: asyncio.Task[None]
    started_s: float
    done_before: int


class AuditJobs:
    """Accepts, runs, resumes and cancels audits. `start` and `stop` it around its use."""

    def __init__(self, settings: Settings, repository: Repository, metrics: Metrics) -> None:
        self._settings = settings
        self._repository = repository
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._ended = asyncio.Condition()
        self._running: _Run | None = None
        self._partial: tuple[str, int, Report] | None = None

    async def start(self) -> None:
        """Open the file and go on with whatever was accepted before.

        Raises:
            StateUnavailable.
        """
        self._store = await asyncio.to_thread(AuditStore, self._settings.state_dir)
        for model in self._repository.serving():
            record = await self.last_succeeded(model)
            if record is not None:
                self._publish(await self.report(record))
        self._runner = asyncio.create_task(self._run_forever(), name="audits")

    async def stop(self) -> None:
        """Stop the worker; the audit goes on from its last finished shard at the next start."""
        self._runner.cancel()
        with suppress(asyncio.CancelledError):
            await self._runner
        await asyncio.to_thread(self._store.close)

    async def submit(self, spec: AuditSpec, idempotency_key: str | None = None) -> AuditRecord:
        """Accept an audit; it is on disk when this returns.

        The same `idempotency_key` again gives the audit that it was accepted with.

        Raises:
            ModelUnknown, BundleError, DatasetError, AuditSpecInvalid: it could not run.
            IdempotencyKeyReused: the key came with another spec before.
        """
        if idempotency_key is not None:
            known = await self._in_thread(self._store.by_idempotency_key, idempotency_key)
            if known is not None:
                return _same_request(known, spec)
        model = self._repository.get(spec.model)
        if spec.dataset.startswith(("folder:", "npz:")):
            raise AuditSpecInvalid(
                "dataset: folder: and npz: name files of the service's machine, which requests "
                "may not read; use `fend audit` there, or a named data set"
            )
        images = await asyncio.to_thread(load, spec.dataset, self._settings.data_dir)
        check_fit(model.manifest, images)
        record = AuditRecord(
            id=secrets.token_hex(8),
            state=AuditState.QUEUED,
            spec=spec,
            model_version=model.manifest.version,
            total=min(spec.samples or len(images), len(images)),
            done=0,
            created_at=datetime.now(UTC),
        )
        try:
            await self._in_thread(self._store.add, record, idempotency_key)
        except sqlite3.IntegrityError:  # the same key, accepted a moment ago
            return await self.submit(spec, idempotency_key)
        self._metrics.audits.labels(AuditState.QUEUED).inc()
        self._wake.set()
        return record

    async def newest(self) -> list[AuditRecord]:
        """The last audits, newest first."""
        return await self._in_thread(self._store.newest, LIST_LIMIT)

    async def get(self, audit_id: str) -> AuditRecord:
        """One audit; raises AuditUnknown."""
        record = await self._in_thread(self._store.get, audit_id)
        if record is None:
            raise AuditUnknown(f"no audit has the id {audit_id!r}; GET /v1/admin/audits lists them")
        return record

    async def wait(self, audit_id: str, timeout_s: float) -> AuditRecord:
        """One audit, once it has ended or the time is over; raises AuditUnknown."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._ended:
                while not (await self.get(audit_id)).state.ended:
                    await self._ended.wait()
        return await self.get(audit_id)

    async def cancel(self, audit_id: str) -> AuditRecord:
        """Stop an audit for good; what it attacked so far is kept.

        Raises:
            AuditUnknown.
            AuditEnded: it succeeded or failed before.
        """
        await self.get(audit_id)
        if await self._in_thread(
            self._store.end, audit_id, AuditState.CANCELLED, datetime.now(UTC)
        ):
            if self._running is not None and self._running.audit_id == audit_id:
                self._running.task.cancel()
            await self._announce_end(audit_id, AuditState.CANCELLED)
        record = await self.get(audit_id)
        if record.state is not AuditState.CANCELLED:
            raise AuditEnded(f"the audit has {record.state} and cannot be cancelled any more")
        return record

    def eta_s(self, record: AuditRecord) -> float | None:
        """How long a running audit still takes at its pace so far; None while that is unknown."""
        run = self._running
        if run is None or run.audit_id != record.id or record.done <= run.done_before:
            return None
        pace_s = (time.monotonic() - run.started_s) / (record.done - run.done_before)
        return round(pace_s * (record.total - record.done), 1)

    async def result(self, record: AuditRecord) -> Report | None:
        """The report of a finished audit, or of the shards so far; None before the first."""
        finished = await self._in_thread(self._store.result, record.id)
        if finished is not None or record.done == 0:
            return finished
        if self._partial is None or self._partial[:2] != (record.id, record.done):
            report = await self._in_thread(self._build, record)
            self._partial = (record.id, record.done, report)
        return self._partial[2]

    async def report(self, record: AuditRecord) -> Report:
        """The report of a finished audit; raises AuditNotFinished."""
        finished = await self._in_thread(self._store.result, record.id)
        if finished is None:
            raise AuditNotFinished(
                f"the audit is {record.state} and has no report"
                + (": wait until it has succeeded" if not record.state.ended else "")
            )
        return finished

    def rows(self, audit_id: str) -> Iterator[list[Row]]:
        """The rows so far, shard by shard; blocks for the disk, so iterate in a thread."""
        return self._store.rows(audit_id)

    async def last_succeeded(self, model: str) -> AuditRecord | None:
        """The last audit of a model that succeeded."""
        return await self._in_thread(self._store.last_succeeded, model)

    async def _run_forever(self) -> None:
        while True:
            self._wake.clear()
            try:
                record = await self._in_thread(self._store.next_pending)
                if record is None:
                    await self._wake.wait()
                else:
                    await self._run_next(record)
            except sqlite3.Error as error:
                structlog.get_logger().error("audits wait for the disk", reason=str(error))
                await asyncio.sleep(RETRY_DELAY_S)

    async def _run_next(self, record: AuditRecord) -> None:
        """Run one audit until it ends, or until `cancel` or `stop` cancels its task."""
        task = asyncio.create_task(self._run(record), name=f"audit {record.id}")
        self._running = _Run(record.id, task, time.monotonic(), record.done)
        try:
            await asyncio.wait([task])
        finally:
            self._running = None
            task.cancel()
            await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    async def _run(self, record: AuditRecord) -> None:
        if not await self._in_thread(self._store.start, record.id, datetime.now(UTC)):
            return  # cancelled a moment ago
        log = structlog.get_logger().bind(audit=record.id, model=record.spec.model)
        log.info("audit runs", done=record.done, total=record.total)
        if record.state is AuditState.QUEUED:
            self._metrics.audits.labels(AuditState.RUNNING).inc()
        try:
            await self._execute(record)
            report = await self._in_thread(self._build, record)
        except FendError as error:
            log.error("audit failed", code=error.code, reason=str(error))
            await self._end(record.id, AuditState.FAILED, error=error)
        except sqlite3.Error:
            raise  # the disk's trouble, not the audit's: tried again later
        except Exception:
            # A bug. It must not stop the audits behind this one, nor make this one run for ever.
            log.exception("audit crashed")
            crash = AuditCrashed("an unexpected error ended this audit; the service's log has it")
            await self._end(record.id, AuditState.FAILED, error=crash)
        else:
            log.info("audit succeeded", worst_case=report.worst_case.accuracy)
            if await self._end(record.id, AuditState.SUCCEEDED, result=report):
                self._publish(report)

    async def _execute(self, record: AuditRecord) -> None:
        async def on_source(source: Source) -> None:
            before = await self._in_thread(self._store.source, record.id)
            if before is None:
                await self._in_thread(self._store.set_source, record.id, source)
            elif before != source:
                raise AuditInputsChanged(
                    "the audit was interrupted and cannot go on with another "
                    f"{_difference(before, source)}; start it again"
                )

        async def on_shard(shard: ShardDone) -> None:
            await self._in_thread(
                self._store.add_shard, record.id, shard.number, shard.images, shard.rows
            )
            self._metrics.audit_shards.inc()

        finished = await self._in_thread(self._store.finished_shards, record.id)
        task = Task(
            spec=record.spec,
            model_version=record.model_version,
            bundle_dir=self._repository.get(record.spec.model).folder,
            data_dir=self._settings.data_dir,
            device=str(pick_device(self._settings.device)),
            first_shard=finished,
        )
        await execute(task, on_source, on_shard)

    async def _end(
        self,
        audit_id: str,
        state: AuditState,
        *,
        error: FendError | None = None,
        result: Report | None = None,
    ) -> bool:
        write = functools.partial(self._store.end, error=error, result=result)
        ended = await self._in_thread(write, audit_id, state, datetime.now(UTC))
        if ended:
            await self._announce_end(audit_id, state)
        return ended

    async def _announce_end(self, audit_id: str, state: AuditState) -> None:
        structlog.get_logger().info("audit ended", audit=audit_id, state=state)
        self._metrics.audits.labels(state).inc()
        async with self._ended:
            self._ended.notify_all()

    def _build(self, record: AuditRecord) -> Report:
        source = self._store.source(record.id)
        assert source is not None, "a worker names its source before it sends a shard"
        rows = (row for shard in self._store.rows(record.id) for row in shard)
        return build_report(record.spec, source, rows)

    def _publish(self, report: Report) -> None:
        """Show the accuracy of a model's last audit to Prometheus."""
        for knowledge, share in report.worst_case_by_knowledge.items():
            self._metrics.robust_accuracy.labels(
                report.identity.model, knowledge, f"{report.threat.epsilon:g}"
            ).set(share.accuracy)

    async def _in_thread(self, function: Callable[..., _T], *arguments: object) -> _T:
        return await asyncio.to_thread(function, *arguments)


def _same_request(known: AuditRecord, spec: AuditSpec) -> AuditRecord:
    if known.spec != spec:
        raise IdempotencyKeyReused(
            f"this Idempotency-Key came with another request before, for the audit {known.id}; "
            "use a new key"
        )
    return known


def _difference(before: Source, now: Source) -> str:
    return "; ".join(
        f"{name} ({getattr(before, name)} before, {getattr(now, name)} now)"
        for name in Source.model_fields
        if getattr(before, name) != getattr(now, name)
    )
