"""Audits on disk: what was asked, how far it is, and the rows of every finished shard.

SQLite with a full sync at each commit: what was accepted or finished survives kill -9 and power
loss. One process holds the file for itself.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import ClassVar

from fend.audit import ROWS, AuditSpec, Report, Row, Source
from fend.errors import FendError

FILE = "audits.sqlite"

_LOCK_TIMEOUT_S = 2.0
"""For a service that is just ending to let go of the file."""

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE audits (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    idempotency_key TEXT UNIQUE,
    state TEXT NOT NULL,
    model TEXT NOT NULL,
    model_version TEXT NOT NULL,
    spec TEXT NOT NULL,
    total INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    started_at TEXT,
    finished_at TEXT,
    error_code TEXT,
    error TEXT,
    source TEXT,
    result TEXT
);
CREATE TABLE shards (
    audit TEXT NOT NULL REFERENCES audits (id),
    number INTEGER NOT NULL,
    images INTEGER NOT NULL,
    rows TEXT NOT NULL,
    PRIMARY KEY (audit, number)
);
"""
_COLUMNS = """
    id, state, spec, model_version, total, created_at, started_at, finished_at, error_code, error,
    (SELECT coalesce(sum(images), 0) FROM shards WHERE audit = id) AS done
"""


class StateUnavailable(FendError):
    """The state directory cannot be used."""

    code: ClassVar[str] = "state_unavailable"


class AuditState(StrEnum):
    """A queued audit runs, and then ends in one of the other three."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether it stays so."""
        return self not in (AuditState.QUEUED, AuditState.RUNNING)


@dataclass(frozen=True)
class AuditRecord:
    """An audit as it is at one moment. Times are UTC."""

    id: str
    state: AuditState
    spec: AuditSpec
    model_version: str
    """The version of the model when the audit was accepted: the one that is audited."""
    total: int
    """Images to attack."""
    done: int
    """Images whose rows are kept."""
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error_code: str | None = None
    error: str | None = None


class AuditStore:
    """The file. Its methods block for a disk write: call them in a thread."""

    def __init__(self, state_dir: Path) -> None:
        """Open or create the file in `state_dir`.

        Raises:
            StateUnavailable: it cannot be written, another process has it, or a newer Fend made it.
        """
        path = state_dir / FILE
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
            self._prepare(path)
        except sqlite3.Error as error:
            self._db.close()
            raise StateUnavailable(
                f"{path} cannot be used: {error}; every running service needs a FEND_STATE_DIR of "
                "its own"
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
        return self._one(
            "WHERE state IN ('running', 'queued') ORDER BY state = 'queued', sequence LIMIT 1"
        )

    def start(self, audit_id: str, now: datetime) -> bool:
        """From queued to running; False when it is not pending any more. A resumed audit keeps
        the time when it first started."""
        return self._changed(
            "UPDATE audits SET state = 'running', started_at = coalesce(started_at, ?)"
            " WHERE id = ? AND state IN ('queued', 'running')",
            now.isoformat(), audit_id,
        )  # fmt: skip

    def end(
        self,
        audit_id: str,
        state: AuditState,
        now: datetime,
        *,
        error: FendError | None = None,
        result: Report | None = None,
    ) -> bool:
        """Into a final state; False when it was in one already, which then stays."""
        return self._changed(
            "UPDATE audits SET state = ?, finished_at = ?, error_code = ?, error = ?, result = ?"
            " WHERE id = ? AND state IN ('queued', 'running')",
            state, now.isoformat(), error.code if error else None, str(error) if error else None,
            result.model_dump_json() if result else None, audit_id,
        )  # fmt: skip

    def add_shard(self, audit_id: str, number: int, images: int, rows: list[Row]) -> None:
        """Keep a finished shard; the same shard again changes nothing."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO shards (audit, number, images, rows) VALUES (?, ?, ?, ?)",
                (audit_id, number, images, ROWS.dump_json(rows).decode()),
            )

    def finished_shards(self, audit_id: str) -> int:
        """How many shards are kept: the first ones, for they are run in order."""
        with self._transaction() as db:
            [count] = db.execute(
                "SELECT count(*) FROM shards WHERE audit = ?", (audit_id,)
            ).fetchone()
        return int(count)

    def rows(self, audit_id: str) -> Iterator[list[Row]]:
        """The rows of each kept shard, in order, one shard in memory at a time."""
        for number in range(self.finished_shards(audit_id)):
            with self._transaction() as db:
                found = db.execute(
                    "SELECT rows FROM shards WHERE audit = ? AND number = ?", (audit_id, number)
                ).fetchone()
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
        """The report, once the audit has succeeded."""
        text = self._text("result", audit_id)
        return None if text is None else Report.model_validate_json(text)

    def last_succeeded(self, model: str) -> AuditRecord | None:
        """The last audit of this model that succeeded."""
        return self._one(
            "WHERE state = 'succeeded' AND model = ? ORDER BY sequence DESC LIMIT 1", model
        )

    def _prepare(self, path: Path) -> None:
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        [version] = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(
                f"BEGIN EXCLUSIVE; {_SCHEMA} PRAGMA user_version = {_SCHEMA_VERSION}; COMMIT;"
            )
        elif version != _SCHEMA_VERSION:
            raise StateUnavailable(
                f"{path} has format {version}, this version of Fend knows {_SCHEMA_VERSION}; "
                "set FEND_STATE_DIR to another folder"
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._db:
            yield self._db

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
    )
