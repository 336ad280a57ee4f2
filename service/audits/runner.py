"""Runs the accepted audits, one at a time, each to its end, whatever dies in between."""

import asyncio
import functools
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from fend.audit import ROWS, Report, Source, build_report
from fend.errors import Conflict, FendError
from service.audits.executor import execute
from service.audits.messages import ShardDone, Task
from service.audits.record import AuditRecord, AuditState, ChangeNotifier, Waiting, WaitingFor
from service.audits.served_check import OwnService, ServiceSilent, pictures_to_send, served_rows
from service.audits.store import AuditStore
from service.audits.tally import Tally
from service.audits.uploads.uploaded_set import PREFIX
from service.audits.uploads.uploaded_sets import UploadedSets
from service.audits.worker_process import ProcessorTime
from service.inference.engine import pick_device
from service.inference.repository import Repository
from service.observe.metrics import Metrics
from service.settings import Settings
from service.state.database import Database
from service.state.trouble import StateUnavailable

RETRY_DELAY_S = 5.0
"""Seconds between looks at the database after it refused."""

POLL_S = 5.0
"""Seconds between looks for an audit whose process is gone."""

HEARTBEAT_S = 5.0
"""Seconds between renewals of the lease of the audit that runs."""

BUSY_SHARE = 0.75
"""Below this share of the processor time that it could use, an audit is said to wait for it."""

_OPENS = Waiting(
    WaitingFor.INPUTS,
    "its process starts, and opens the models and the images; a surrogate is trained if need be",
)
_ASKS = Waiting(
    WaitingFor.ANSWERS, "all images are attacked; this service is asked for its own answers"
)


@dataclass
class _Run:
    """The audit that runs now."""

    audit_id: str
    task: asyncio.Task[None]
    started_s: float
    done_before: int
    whole: bool
    """Whether it began with this run, and not before an interruption."""
    waiting: Waiting | None = None
    """Obstacle that it waits for instead of attacking."""
    pid: int | None = None
    """Its worker."""
    processor: ProcessorTime | None = None
    """Processor time of the worker at the last heartbeat."""
    share: float = 1.0
    """Share that it had, between the last heartbeats, of the processor time that it could use."""


class AuditRunner:
    """Works off the queue in the store. `start` and `stop` it around its use."""

    def __init__(
        self,
        settings: Settings,
        repository: Repository,
        uploads: UploadedSets,
        database: Database,
        store: AuditStore,
        metrics: Metrics,
        changes: ChangeNotifier,
        own: OwnService | None,
    ) -> None:
        self._settings = settings
        self._repository = repository
        self._uploads = uploads
        self._database = database
        self._store = store
        self._metrics = metrics
        self._changes = changes
        self._own = own
        self._wake = asyncio.Event()
        self._running: _Run | None = None

    def start(self) -> None:
        """Go on with whatever was accepted before."""
        self._runner = asyncio.create_task(self._run_forever(), name="audits")

    async def stop(self) -> None:
        """Stop the worker; the audit goes on from its last finished shard at the next start."""
        self._runner.cancel()
        with suppress(asyncio.CancelledError):
            await self._runner

    def wake(self) -> None:
        """There is an audit in the queue."""
        self._wake.set()

    async def cancel(self, audit_id: str) -> None:
        """End an audit, and its worker at once, unless it has ended."""
        await self._end(audit_id, AuditState.CANCELLED)

    def eta_s(self, record: AuditRecord) -> float | None:
        """How long a running audit still takes at its pace so far; None while that is unknown."""
        run = self._running
        if run is None or run.audit_id != record.id or record.done <= run.done_before:
            return None
        pace_s = (time.monotonic() - run.started_s) / (record.done - run.done_before)
        return round(pace_s * (record.total - record.done), 1)

    def waiting(self, record: AuditRecord) -> Waiting | None:
        """Why an audit does not go on, or goes on slowly; None: it has ended, goes on, or runs in
        another process of the service."""
        if record.state.ended:
            return None
        if self._database.trouble is not None:
            return Waiting(WaitingFor.STATE, f"the state cannot be kept: {self._database.trouble}")
        if record.state is AuditState.QUEUED:
            others = "another audit" if record.ahead == 1 else f"{record.ahead} other audits"
            return Waiting(WaitingFor.AUDITS, f"queued behind {others}") if record.ahead else None
        run = self._running
        if run is None or run.audit_id != record.id:
            return None
        if run.share < BUSY_SHARE:
            low = self._settings.worker_priority == "low"
            hint = "; FEND_WORKER_PRIORITY=normal gives it as much as serving" if low else ""
            return Waiting(
                WaitingFor.PROCESSOR,
                f"the machine is busy with other work: the audit gets {run.share:.0%} of the time "
                f"of one core (its priority is {self._settings.worker_priority}{hint})",
            )
        return run.waiting

    def publish(self, report: Report) -> None:
        """Show the accuracy of a model's last audit to Prometheus."""
        for knowledge, share in report.worst_case_by_knowledge.items():
            labels = (
                report.identity.model,
                report.identity.dataset,
                knowledge,
                f"{report.threat.epsilon:g}",
            )
            self._metrics.robust_accuracy.labels(*labels).set(share.accuracy)
            self._metrics.robust_accuracy_bound.labels(*labels, "low").set(share.low)
            self._metrics.robust_accuracy_bound.labels(*labels, "high").set(share.high)

    def apply_retention(self, now: datetime) -> None:
        """Delete of ended audits what the settings keep no longer; blocks for the disk.

        Trouble with the disk is logged only: the next audit's end tries again.
        """
        settings = self._settings
        try:
            rows = self._store.drop_rows(settings.keep_audit_rows)
            audits = self._store.drop_audits(
                settings.keep_audits, now - timedelta(days=settings.keep_audits_days)
            )
            if rows or audits:
                self._database.reclaim_space()
                structlog.get_logger().info("old audits deleted", audits=audits, rows_of=rows)
        except StateUnavailable as error:
            structlog.get_logger().error("old audits cannot be deleted", reason=str(error))

    async def _run_forever(self) -> None:
        while True:
            self._wake.clear()
            try:
                record = await asyncio.to_thread(self._store.claim, datetime.now(UTC))
                if record is None:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), POLL_S)
                else:
                    await self._run_next(record)
            except StateUnavailable as error:
                structlog.get_logger().error("audits wait for the disk", reason=str(error))
                await asyncio.sleep(RETRY_DELAY_S)
                # Attacking again what cannot be kept would only take processor time.
                while not await asyncio.to_thread(self._database.check_again):
                    await asyncio.sleep(RETRY_DELAY_S)
                structlog.get_logger().info("audits go on: there is room on the disk")

    async def _run_next(self, record: AuditRecord) -> None:
        """Run one audit until it ends, or until `cancel`, `stop` or the loss of its lease cancels
        its task."""
        task = asyncio.create_task(self._run(record), name=f"audit {record.id}")
        whole = record.state is AuditState.QUEUED
        self._running = _Run(record.id, task, time.monotonic(), record.done, whole)
        lease = asyncio.create_task(self._keep_lease(record.id, task))
        try:
            await asyncio.wait([task])
        finally:
            self._running = None
            lease.cancel()
            task.cancel()
            await asyncio.wait([task, lease])
            with suppress(StateUnavailable):
                await asyncio.to_thread(self._store.release, record.id)
        if not task.cancelled():
            task.result()

    async def _keep_lease(self, audit_id: str, task: asyncio.Task[None]) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            self._look_at_worker()
            with suppress(StateUnavailable):  # whoever wants the audit finds the same trouble
                if not await asyncio.to_thread(self._store.renew, audit_id):
                    task.cancel()

    def _look_at_worker(self) -> None:
        run = self._running
        if run is None or run.pid is None:
            return
        before, run.processor = run.processor, ProcessorTime.of(run.pid)
        run.share = 1.0
        if before is not None and run.processor is not None:
            run.share = run.processor.share_since(before)

    async def _run(self, record: AuditRecord) -> None:
        await self._changes.announce()
        log = structlog.get_logger().bind(audit=record.id, model=record.spec.model)
        log.info("audit runs", done=record.done, total=record.total)
        if record.state is AuditState.QUEUED:
            self._metrics.audits.labels(AuditState.RUNNING).inc()
        try:
            await self._execute(record)
            await self._compare_with_served(record)
            report = await asyncio.to_thread(self.build, record)
        except StateUnavailable:
            raise  # the disk's trouble, not the audit's: tried again later
        except FendError as error:
            log.error("audit failed", code=error.code, reason=str(error))
            await self._end(record.id, AuditState.FAILED, error=error)
        except Exception:
            # A bug. It must not stop the audits behind this one, nor make this one run for ever.
            log.exception("audit crashed")
            crash = FendError(
                "an unexpected error ended this audit; the service's log has it",
                code="audit_crashed",
            )
            await self._end(record.id, AuditState.FAILED, error=crash)
        else:
            log.info("audit succeeded", worst_case=report.worst_case.accuracy)
            if await self._end(record.id, AuditState.SUCCEEDED, result=report):
                self.publish(report)

    async def _execute(self, record: AuditRecord) -> None:
        run = self._running
        assert run is not None, "it is this one"

        def on_start(pid: int) -> None:
            run.pid, run.processor, run.share, run.waiting = pid, None, 1.0, _OPENS

        async def on_source(source: Source) -> None:
            run.waiting = None
            before = await asyncio.to_thread(self._store.source, record.id)
            if before is None:
                await asyncio.to_thread(self._store.set_source, record.id, source)
            elif before != source:
                raise Conflict(
                    "the audit was interrupted and cannot go on with another "
                    f"{_difference(before, source)}; start it again",
                    code="audit_inputs_changed",
                )

        async def on_shard(shard: ShardDone) -> None:
            await asyncio.to_thread(
                self._store.add_shard,
                record.id, shard.number, shard.images, shard.tally, shard.rows, datetime.now(UTC),
            )  # fmt: skip
            self._metrics.audit_shards.inc()
            await self._changes.announce()

        async def on_death() -> None:
            await asyncio.to_thread(self._store.add_worker_death, record.id)
            self._metrics.audit_worker_deaths.inc()

        settings, spec = self._settings, record.spec
        task = Task(
            spec=spec,
            model_version=record.model_version,
            bundle_dir=await asyncio.to_thread(
                self._repository.folder_of, spec.model, record.model_version
            ),
            models_dir=settings.models_dir,
            surrogates_dir=settings.state_dir / "surrogates",
            data_dir=settings.data_dir,
            uploaded=(
                self._uploads.folder_of(spec.dataset) if spec.dataset.startswith(PREFIX) else None
            ),
            device=str(pick_device(settings.device)),
            priority=settings.worker_priority,
            first_shard=await asyncio.to_thread(self._store.finished_shards, record.id),
        )
        await execute(task, on_start, on_source, on_shard, on_death)
        run.pid, run.share = None, 1.0

    async def _compare_with_served(self, record: AuditRecord) -> None:
        """One more unit of work: the answers of this very service, kept as one more shard.

        Whether it is done shows in the rows, so it is done once, whatever dies when.
        """
        if self._own is None:
            return
        pictures = await asyncio.to_thread(
            lambda: pictures_to_send(record.spec, self._store.rows(record.id))
        )
        if not pictures:
            return
        if self._running is not None:
            self._running.waiting = _ASKS
        stop = threading.Event()
        try:
            rows = await asyncio.to_thread(
                served_rows, self._own, record.spec, record.model_version, pictures, stop
            )
        except ServiceSilent as error:
            structlog.get_logger().warning(
                "audit goes without served answers", audit=record.id, reason=str(error)
            )
            return
        finally:
            stop.set()
        number = await asyncio.to_thread(self._store.finished_shards, record.id)
        text = ROWS.dump_json(rows).decode()
        await asyncio.to_thread(
            self._store.add_shard, record.id, number, 0, Tally(), text, datetime.now(UTC)
        )

    def build(self, record: AuditRecord) -> Report:
        """The report of the shards so far; blocks for the disk and the processor."""
        source = self._store.source(record.id)
        assert source is not None, "a worker names its source before it sends a shard"
        rows = (row for shard in self._store.rows(record.id) for row in shard)
        return build_report(record.spec, source, rows)

    async def _end(
        self,
        audit_id: str,
        state: AuditState,
        *,
        error: FendError | None = None,
        result: Report | None = None,
    ) -> bool:
        now = datetime.now(UTC)
        record = await asyncio.to_thread(self._store.get, audit_id)
        started_at = None if record is None else self._started_at(record, now)
        write = functools.partial(
            self._store.end, started_at=started_at, error=error, result=result
        )
        if not await asyncio.to_thread(write, audit_id, state, now):
            return False
        run = self._running
        if state is AuditState.CANCELLED and run is not None and run.audit_id == audit_id:
            run.task.cancel()
        structlog.get_logger().info("audit ended", audit=audit_id, state=state)
        self._metrics.audits.labels(state).inc()
        if started_at is not None:
            duration_s = (now - started_at).total_seconds()
            self._metrics.audit_duration.labels(state).observe(duration_s)
        await self._changes.announce()
        await asyncio.to_thread(self.apply_retention, now)
        return True

    def _started_at(self, record: AuditRecord, now: datetime) -> datetime | None:
        """When an audit began by the clock of `now`, which may have been set meanwhile."""
        if record.started_at is None:
            return None
        run = self._running
        if run is not None and run.audit_id == record.id and run.whole:
            return now - timedelta(seconds=time.monotonic() - run.started_s)
        return min(record.started_at, now)


def _difference(before: Source, now: Source) -> str:
    return "; ".join(
        f"{name} ({getattr(before, name)} before, {getattr(now, name)} now)"
        for name in Source.model_fields
        if getattr(before, name) != getattr(now, name)
    )
