"""Audits in the database: what was asked, how far it is, and the rows of every finished shard.

An audit is worked on by one process at a time. It holds a lease, and renews it by counting up
`heartbeats`. Who sees the count stand still for `LEASE_S` by his own clock may take the audit over:
no two clocks are compared, so that setting one disturbs nothing.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.exc import IntegrityError

from fend.audit import ROWS, AuditSpec, Report, Row, Source
from fend.errors import FendError, Invalid, NotFound, Unavailable
from service.audits.record import AuditRecord, AuditState
from service.audits.tally import Tally
from service.audits.uploads.uploaded_set import PREFIX
from service.state.database import Database
from service.state.tables import audits, is_pending, shards, uploads

_T = TypeVar("_T")

LEASE_S = 30.0
"""Seconds without a heartbeat after which another process may take an audit over."""

_done = sa.select(sa.func.coalesce(sa.func.sum(shards.c.images), 0)).where(
    shards.c.audit == audits.c.id
)
_last_progress = sa.select(sa.func.max(shards.c.finished_at)).where(shards.c.audit == audits.c.id)
_earlier = audits.alias()
_ahead = sa.select(sa.func.count()).where(
    _earlier.c.state.in_(("queued", "running")), _earlier.c.sequence < audits.c.sequence
)
_dropped = sa.exists().where(shards.c.audit == audits.c.id, shards.c.rows.is_(None))
_COLUMNS = (
    *(audits.c[name] for name in (
        "id", "state", "spec", "model_version", "total", "created_at", "started_at", "finished_at",
        "error_code", "error", "worker_deaths",
    )),
    _done.scalar_subquery().label("done"),
    (~_dropped).label("rows_kept"),
    _last_progress.scalar_subquery().label("progress_at"),
    _ahead.scalar_subquery().label("ahead"),
)  # fmt: skip
_NEWEST_FIRST = audits.c.sequence.desc()
_ENDED = tuple(state for state in AuditState if state.ended)
_has_ended = audits.c.state.in_(_ENDED)
_RECORD = TypeAdapter(AuditRecord)


@dataclass(frozen=True)
class FinishedShard:
    """What is known of a finished shard for as long as its audit is."""

    number: int
    images: int
    tally: Tally


class AuditStore:
    """The audits of a database. Its methods block: call them in a thread.

    All of them raise StateUnavailable where the database refuses; then nothing has changed. An
    audit that cannot be read is passed over, and stays as it is: neither shown nor run.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._beats_seen: dict[str, tuple[str, int, float]] = {}
        """Owner, heartbeats, and when we saw these first, of audits of other processes."""

    def add(self, record: AuditRecord, idempotency_key: str | None) -> bool:
        """Accept an audit; it is on disk when this returns. False: the key was used before.

        Raises:
            NotFound: its uploaded data set was deleted meanwhile.
        """
        dataset = record.spec.dataset
        new = {
            "id": record.id, "idempotency_key": idempotency_key, "state": record.state,
            "model": record.spec.model, "model_version": record.model_version, "dataset": dataset,
            "spec": record.spec.model_dump_json(), "total": record.total,
            "created_at": record.created_at,
        }  # fmt: skip
        try:
            with self._database.writing() as db:
                if dataset.startswith(PREFIX):
                    upload = sa.select(uploads.c.id).where(
                        uploads.c.id == dataset.removeprefix(PREFIX)
                    )
                    if db.execute(upload.with_for_update(read=True)).first() is None:
                        raise NotFound(f"the data set {dataset} was deleted", code="upload_unknown")
                db.execute(sa.insert(audits).values(new))
        except IntegrityError:
            return False
        return True

    def get(self, audit_id: str) -> AuditRecord | None:
        """The audit with this id."""
        return self._one(audits.c.id == audit_id)

    def by_idempotency_key(self, key: str) -> AuditRecord | None:
        """The audit that was accepted with this key.

        Raises:
            Invalid: it cannot be read any more.
        """
        known = self._one(audits.c.idempotency_key == key)
        with self._database.reading() as db:
            used = sa.select(audits.c.id).where(audits.c.idempotency_key == key)
            if known is None and db.execute(used).first() is not None:
                raise Invalid(
                    "this Idempotency-Key came with an audit that cannot be read any more; use a "
                    "new key",
                    code="idempotency_key_reused",
                )
        return known

    def newest(self, limit: int) -> list[AuditRecord]:
        """The last audits that were accepted, newest first."""
        query = sa.select(*_COLUMNS).order_by(_NEWEST_FIRST)
        return list(itertools.islice(self._records(query), limit))

    def last_succeeded(self, model: str) -> AuditRecord | None:
        """The last audit of this model that has a report."""
        return self._one(audits.c.result.is_not(None) & (audits.c.model == model))

    def claim(self, now: datetime) -> AuditRecord | None:
        """Take the lease of an audit, which runs from now on: one that this process began, or whose
        process is gone, or else the oldest that waits. The record is as it was before.

        A resumed audit keeps the time when it first started.
        """
        columns = (audits.c.id, audits.c.state, audits.c.owner, audits.c.heartbeats)
        with self._database.reading() as db:
            pending = db.execute(
                sa.select(*columns).where(is_pending).order_by(audits.c.sequence)
            ).all()
        self._watch({row.id: (row.owner, row.heartbeats) for row in pending if row.owner})
        for row in sorted(pending, key=lambda row: bool(row.state == AuditState.QUEUED)):
            record = self.get(row.id) if self._is_free(row.id, row.owner) else None
            if record is not None and self._update(
                is_pending
                & (audits.c.id == row.id)
                & audits.c.owner.is_not_distinct_from(row.owner)
                & (audits.c.heartbeats == row.heartbeats),
                state=AuditState.RUNNING,
                started_at=sa.func.coalesce(
                    audits.c.started_at, sa.literal(now, audits.c.started_at.type)
                ),
                owner=self._database.owner,
                heartbeats=audits.c.heartbeats + 1,
            ):
                return record
        return None

    def renew(self, audit_id: str) -> bool:
        """Keep the lease; False: the audit has ended, or another process has taken it over."""
        return self._update(
            self._is_ours(audit_id) & is_pending, heartbeats=audits.c.heartbeats + 1
        )

    def release(self, audit_id: str) -> None:
        """Let any process go on with an audit at once."""
        self._update(self._is_ours(audit_id), owner=None)

    def end(
        self,
        audit_id: str,
        state: AuditState,
        now: datetime,
        *,
        started_at: datetime | None = None,
        error: FendError | None = None,
        result: Report | None = None,
    ) -> bool:
        """Into a final state; False when it was in one already, which then stays. `started_at`
        corrects the time of the start where the clock was set since."""
        return self._update(
            (audits.c.id == audit_id) & is_pending,
            state=state,
            finished_at=now,
            error_code=error.code if error else None,
            error=str(error) if error else None,
            result=result.model_dump_json() if result else None,
            **({"started_at": started_at} if started_at else {}),
        )

    def add_worker_death(self, audit_id: str) -> None:
        """Count a worker of this audit that exited without reporting an error."""
        self._update(audits.c.id == audit_id, worker_deaths=audits.c.worker_deaths + 1)

    def source(self, audit_id: str) -> Source | None:
        """What the audit's worker said it works with."""
        text = self._value(audits.c.source, audit_id)
        return (
            None
            if text is None
            else self._read("source", audit_id, Source.model_validate_json, text)
        )

    def set_source(self, audit_id: str, source: Source) -> None:
        """Keep what the audit's worker works with."""
        self._update(audits.c.id == audit_id, source=source.model_dump_json())

    def result(self, audit_id: str) -> Report | None:
        """The report, once the audit has succeeded; None too for one of an older format."""
        text = self._value(audits.c.result, audit_id)
        try:
            return None if text is None else Report.model_validate_json(text)
        except ValidationError:
            return None

    def add_shard(
        self, audit_id: str, number: int, images: int, tally: Tally, rows: str, now: datetime
    ) -> None:
        """Keep a finished shard; `rows` is as `ROWS` writes them. The same shard again changes
        nothing."""
        new = {
            "audit": audit_id, "number": number, "images": images, "rows": rows, "finished_at": now,
        }  # fmt: skip
        with self._database.writing() as db:
            db.execute(
                self._database.insert(shards)
                .values(**new, tally=tally.model_dump_json())
                .on_conflict_do_nothing()
            )

    def finished_shards(self, audit_id: str) -> int:
        """How many shards are kept: the first ones, for they are run in order."""
        with self._database.reading() as db:
            return db.execute(
                sa.select(sa.func.count()).where(shards.c.audit == audit_id)
            ).scalar_one()

    def shards(self, audit_id: str, first: int) -> list[FinishedShard]:
        """The finished shards from the number `first` on, in order, without their rows."""
        wanted = (shards.c.audit == audit_id) & (shards.c.number >= first)
        with self._database.reading() as db:
            found = db.execute(
                sa.select(shards.c.number, shards.c.images, shards.c.tally)
                .where(wanted)
                .order_by(shards.c.number)
            ).all()
        return [
            FinishedShard(
                number, images, self._read("tally", audit_id, Tally.model_validate_json, tally)
            )
            for number, images, tally in found
        ]

    def rows(self, audit_id: str) -> Iterator[list[Row]]:
        """The rows of each finished shard that are kept, in order, one shard in memory at a time.

        Retention may delete the rest at any moment: the iteration then ends early.
        """
        for number in range(self.finished_shards(audit_id)):
            wanted = (shards.c.audit == audit_id) & (shards.c.number == number)
            with self._database.reading() as db:
                text = db.execute(sa.select(shards.c.rows).where(wanted)).scalar()
            if text is None:
                return
            yield self._read("rows", audit_id, ROWS.validate_json, text)

    def drop_rows(self, keep: int) -> int:
        """Delete the raw rows of all ended audits but the newest `keep`; how many lost theirs."""
        old = sa.select(audits.c.id).where(_has_ended).order_by(_NEWEST_FIRST).offset(keep)
        with self._database.writing() as db:
            ids = db.scalars(
                sa.select(shards.c.audit).distinct().where(
                    shards.c.rows.is_not(None), shards.c.audit.in_(db.scalars(old).all())
                )
            ).all()  # fmt: skip
            if ids:
                db.execute(sa.update(shards).where(shards.c.audit.in_(ids)).values(rows=None))
        return len(ids)

    def drop_audits(self, keep: int, ended_before: datetime) -> int:
        """Delete all ended audits but the newest `keep`, and those that ended too long ago; how
        many. The last report of each model stays."""
        newest = sa.select(audits.c.id).where(_has_ended).order_by(_NEWEST_FIRST).limit(keep)
        last_reports = (
            sa.select(sa.func.max(audits.c.sequence))
            .where(audits.c.result.is_not(None))
            .group_by(audits.c.model)
        )
        with self._database.writing() as db:
            ids = db.scalars(
                sa.select(audits.c.id).where(
                    _has_ended,
                    (audits.c.finished_at < ended_before) | audits.c.id.not_in(newest),
                    audits.c.sequence.not_in(last_reports),
                )
            ).all()
            if ids:
                db.execute(sa.delete(shards).where(shards.c.audit.in_(ids)))
                db.execute(sa.delete(audits).where(audits.c.id.in_(ids)))
        return len(ids)

    def _watch(self, leases: dict[str, tuple[str, int]]) -> None:
        """Remember since when each lease has been as it is."""
        seen = self._beats_seen
        self._beats_seen = {
            audit_id: known
            if (known := seen.get(audit_id)) is not None and known[:2] == lease
            else (*lease, time.monotonic())
            for audit_id, lease in leases.items()
        }

    def _is_free(self, audit_id: str, owner: str | None) -> bool:
        if owner is None or owner == self._database.owner:
            return True
        return time.monotonic() - self._beats_seen[audit_id][2] >= LEASE_S

    def _is_ours(self, audit_id: str) -> sa.ColumnElement[bool]:
        return (audits.c.id == audit_id) & (audits.c.owner == self._database.owner)

    def _update(self, where: sa.ColumnElement[bool], **values: Any) -> bool:
        with self._database.writing() as db:
            return db.execute(sa.update(audits).where(where).values(**values)).rowcount > 0

    def _value(self, column: sa.Column[Any], audit_id: str) -> Any:
        with self._database.reading() as db:
            return db.execute(sa.select(column).where(audits.c.id == audit_id)).scalar()

    def _one(self, where: sa.ColumnElement[bool]) -> AuditRecord | None:
        found = self._records(sa.select(*_COLUMNS).where(where).order_by(_NEWEST_FIRST))
        return next(found, None)

    def _records(self, query: sa.Select[Any]) -> Iterator[AuditRecord]:
        with self._database.reading() as db:
            for row in db.execute(query).mappings():
                try:
                    spec = AuditSpec.model_validate_json(row["spec"])
                    record = _RECORD.validate_python({**row, "spec": spec})
                except ValidationError as error:  # it must not hide the others
                    self._database.skip("audit", row["id"], error)
                else:
                    yield record

    def _read(self, what: str, audit_id: str, read: Callable[[str], _T], text: str) -> _T:
        """Raises Unavailable where it cannot be read."""
        try:
            return read(text)
        except ValidationError as error:
            self._database.skip(what, audit_id, error)
            raise Unavailable(
                f"the {what} of the audit {audit_id} cannot be read any more; restore the state "
                "from a backup, or start the audit again",
                code="audit_unreadable",
            ) from error
