"""Audits on disk: what was asked, how far it is, and the rows of every finished shard.

SQLite with a full sync at each commit: what was accepted or finished survives kill -9 and power
loss. One process holds the file for itself.
"""

import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from fend.audit import ROWS, AuditSpec, Report, Row, Source
from fend.errors import FendError
from service.audits.record import AuditRecord, AuditState
from service.audits.tables import prepare
from service.audits.tally import Tally
from service.runtime.state import StateUnavailable

FILE = "audits.sqlite"

ROOM_BYTES = 2**20
"""That must be free on the disk again after it has refused a write."""

_LOCK_TIMEOUT_S = 2.0
"""For a service that is just ending to let go of the file."""

_COLUMNS = """
    id, state, spec, model_version, total, created_at, started_at, finished_at, error_code, error,
    worker_deaths,
    (SELECT coalesce(sum(images), 0) FROM shards WHERE audit = id) AS done,
    NOT EXISTS (SELECT 1 FROM shards WHERE audit = id AND rows IS NULL) AS rows_kept
"""
_PENDING = "state IN ('queued', 'running')"
_ENDED = f"NOT {_PENDING}"


@dataclass(frozen=True)
class FinishedShard:
    """What is known of a finished shard for as long as its audit is."""

    number: int
    images: int
    tally: Tally


class AuditStore:
    """The file. Its methods block for a disk write: call them in a thread.

    All of them raise StateUnavailable where the disk is full or broken; then nothing has changed.
    """

    def __init__(self, state_dir: Path, on_failure: Callable[[], None] = lambda: None) -> None:
        """Open or create the file in `state_dir`; `on_failure` hears of each refusal of the disk.

        Raises:
            StateUnavailable: it cannot be written, another process has it, or a newer Fend made it.
        """
        path = state_dir / FILE
        self._state_dir = state_dir
        self._on_failure = on_failure
        self.trouble: str | None = None
        """What the disk said when it refused; None again once `look_again` found room."""
        self._lock = threading.Lock()
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            # Used by one thread at a time, under the lock.
            self._db = sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise StateUnavailable(
                f"{path} cannot be opened: {error}; set FEND_STATE_DIR to a writable folder"
            ) from error
        self._db.row_factory = sqlite3.Row
        try:
            prepare(self._db, path)
        except sqlite3.Error as error:
            self._db.close()
            raise StateUnavailable(
                f"{path} cannot be used: {error}; every running service needs a FEND_STATE_DIR of "
                "its own, with room on its disk"
            ) from error
        except StateUnavailable:
            self._db.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._db.close()

    def add(self, record: AuditRecord, idempotency_key: str | None) -> None:
        """Accept an audit; it is on disk when this returns."""
        with self._transaction() as db:
            db.execute(
                "INSERT INTO audits (id, idempotency_key, state, model, model_version, spec, total,"
                " created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    record.id, idempotency_key, record.state, record.spec.model,
                    record.model_version, record.spec.model_dump_json(), record.total,
                    record.created_at.isoformat(),
                ),
            )  # fmt: skip

    def get(self, audit_id: str) -> AuditRecord | None:
        """The audit with this id."""
        return self._one("WHERE id = ?", audit_id)

    def by_idempotency_key(self, key: str) -> AuditRecord | None:
        """The audit that was accepted with this key."""
        return self._one("WHERE idempotency_key = ?", key)

    def newest(self, limit: int) -> list[AuditRecord]:
        """The last audits that were accepted, newest first."""
        return self._all("ORDER BY sequence DESC LIMIT ?", limit)

    def next_pending(self) -> AuditRecord | None:
        """What to work on: the audit that was interrupted, or else the oldest in the queue."""
        return self._one(f"WHERE {_PENDING} ORDER BY state = 'queued', sequence LIMIT 1")

    def pending_on(self, dataset: str) -> AuditRecord | None:
        """An audit that has not ended and needs this data set."""
        return self._one(
            f"WHERE {_PENDING} AND json_extract(spec, '$.dataset') = ? LIMIT 1", dataset
        )

    def start(self, audit_id: str, now: datetime) -> bool:
        """From queued to running; False when it is not pending any more. A resumed audit keeps
        the time when it first started."""
        return self._changed(
            "UPDATE audits SET state = 'running', started_at = coalesce(started_at, ?)"
            f" WHERE id = ? AND {_PENDING}",
            now.isoformat(), audit_id,
        )  # fmt: skip

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
        return self._changed(
            "UPDATE audits SET state = ?, finished_at = ?, error_code = ?, error = ?, result = ?,"
            f" started_at = coalesce(?, started_at) WHERE id = ? AND {_PENDING}",
            state, now.isoformat(), error.code if error else None, str(error) if error else None,
            result.model_dump_json() if result else None,
            started_at.isoformat() if started_at else None, audit_id,
        )  # fmt: skip

    def add_worker_death(self, audit_id: str) -> None:
        """Count a worker of this audit that ended without a word."""
        self._changed("UPDATE audits SET worker_deaths = worker_deaths + 1 WHERE id = ?", audit_id)

    def add_shard(self, audit_id: str, number: int, images: int, tally: Tally, rows: str) -> None:
        """Keep a finished shard; `rows` is as `ROWS` writes them. The same shard again changes
        nothing."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO shards (audit, number, images, tally, rows)"
                " VALUES (?, ?, ?, ?, ?)",
                (audit_id, number, images, tally.model_dump_json(), rows),
            )

    def finished_shards(self, audit_id: str) -> int:
        """How many shards are kept: the first ones, for they are run in order."""
        with self._transaction() as db:
            [count] = db.execute(
                "SELECT count(*) FROM shards WHERE audit = ?", (audit_id,)
            ).fetchone()
        return int(count)

    def shards(self, audit_id: str, first: int) -> list[FinishedShard]:
        """The finished shards from the number `first` on, in order, without their rows."""
        with self._transaction() as db:
            found = db.execute(
                "SELECT number, images, tally FROM shards WHERE audit = ? AND number >= ?"
                " ORDER BY number",
                (audit_id, first),
            ).fetchall()
        return [
            FinishedShard(row["number"], row["images"], Tally.model_validate_json(row["tally"]))
            for row in found
        ]

    def rows(self, audit_id: str) -> Iterator[list[Row]]:
        """The rows of each finished shard that are kept, in order, one shard in memory at a time.

        Retention may delete the rest at any moment: the iteration then ends early.
        """
        for number in range(self.finished_shards(audit_id)):
            with self._transaction() as db:
                found = db.execute(
                    "SELECT rows FROM shards WHERE audit = ? AND number = ?", (audit_id, number)
                ).fetchone()
            if found is None or found["rows"] is None:
                return
            yield ROWS.validate_json(found["rows"])

    def source(self, audit_id: str) -> Source | None:
        """What the audit's worker said it works with."""
        text = self._text("source", audit_id)
        return None if text is None else Source.model_validate_json(text)

    def set_source(self, audit_id: str, source: Source) -> None:
        """Keep what the audit's worker works with."""
        self._changed(
            "UPDATE audits SET source = ? WHERE id = ?", source.model_dump_json(), audit_id
        )

    def result(self, audit_id: str) -> Report | None:
        """The report, once the audit has succeeded; None too for one of an older format."""
        text = self._text("result", audit_id)
        if text is None:
            return None
        try:
            return Report.model_validate_json(text)
        except ValidationError:
            return None

    def last_succeeded(self, model: str) -> AuditRecord | None:
        """The last audit of this model that has a report."""
        return self._one("WHERE result IS NOT NULL AND model = ? ORDER BY sequence DESC LIMIT 1",
                         model)  # fmt: skip

    def drop_rows(self, keep: int) -> int:
        """Delete the raw rows of all ended audits but the newest `keep`; how many lost theirs."""
        with self._transaction() as db:
            old = db.execute(
                "SELECT DISTINCT audit FROM shards WHERE rows IS NOT NULL AND audit IN"
                f" (SELECT id FROM audits WHERE {_ENDED} ORDER BY sequence DESC LIMIT -1 OFFSET ?)",
                (keep,),
            ).fetchall()
            db.executemany("UPDATE shards SET rows = NULL WHERE audit = ?", [tuple(o) for o in old])
        return len(old)

    def drop_audits(self, keep: int, ended_before: datetime) -> int:
        """Delete all ended audits but the newest `keep`, and those that ended too long ago; how
        many. The last report of each model stays."""
        with self._transaction() as db:
            old = db.execute(
                f"SELECT id FROM audits WHERE {_ENDED}"
                f" AND (finished_at < ? OR id NOT IN"
                f"   (SELECT id FROM audits WHERE {_ENDED} ORDER BY sequence DESC LIMIT ?))"
                " AND sequence NOT IN"
                "   (SELECT max(sequence) FROM audits WHERE result IS NOT NULL GROUP BY model)",
                (ended_before.isoformat(), keep),
            ).fetchall()
            ids = [tuple(o) for o in old]
            db.executemany("DELETE FROM shards WHERE audit = ?", ids)
            db.executemany("DELETE FROM audits WHERE id = ?", ids)
        return len(old)

    def give_back_space(self) -> None:
        """Shrink the file by what was deleted."""
        with self._transaction() as db:
            db.executescript("PRAGMA incremental_vacuum")  # `execute` frees one page only

    def look_again(self) -> bool:
        """Whether the disk, after it has refused a write, has room now.

        A small write to the file proves nothing: SQLite keeps room for a few.
        """
        if self.trouble is not None:
            try:
                with tempfile.TemporaryFile(dir=self._state_dir) as file:
                    file.write(bytes(ROOM_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
            except OSError:
                return False
            self.trouble = None
        return True

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            with self._lock, self._db:
                yield self._db
        except sqlite3.DatabaseError as error:
            self.trouble = str(error)
            self._on_failure()
            raise StateUnavailable(
                f"the service cannot keep audits just now ({error}); make room on the disk of "
                "FEND_STATE_DIR, or try again later"
            ) from error

    def _changed(self, statement: str, *values: str | None) -> bool:
        with self._transaction() as db:
            return db.execute(statement, values).rowcount > 0

    def _text(self, column: str, audit_id: str) -> str | None:
        with self._transaction() as db:
            found = db.execute(f"SELECT {column} FROM audits WHERE id = ?", (audit_id,)).fetchone()
        return None if found is None else found[column]

    def _one(self, rest: str, *values: str) -> AuditRecord | None:
        found = self._all(rest, *values)
        return found[0] if found else None

    def _all(self, rest: str, *values: str | int) -> list[AuditRecord]:
        with self._transaction() as db:
            found = db.execute(f"SELECT {_COLUMNS} FROM audits {rest}", values).fetchall()
        return [_record(row) for row in found]


def _record(row: sqlite3.Row) -> AuditRecord:
    def time(name: str) -> datetime | None:
        return None if row[name] is None else datetime.fromisoformat(row[name])

    return AuditRecord(
        id=row["id"],
        state=AuditState(row["state"]),
        spec=AuditSpec.model_validate_json(row["spec"]),
        model_version=row["model_version"],
        total=row["total"],
        done=row["done"],
        created_at=datetime.fromisoformat(row["created_at"]),
        started_at=time("started_at"),
        finished_at=time("finished_at"),
        error_code=row["error_code"],
        error=row["error"],
        worker_deaths=row["worker_deaths"],
        rows_kept=bool(row["rows_kept"]),
    )
