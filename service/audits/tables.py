"""The tables that audits are kept in, and how a file of an older version becomes one of this."""

import sqlite3
from pathlib import Path

from pydantic import ValidationError

from fend.audit import AuditSpec
from service.runtime.state import StateUnavailable

VERSION = 2
_SHARDS = """
CREATE TABLE shards (
    audit TEXT NOT NULL REFERENCES audits (id),
    number INTEGER NOT NULL,
    images INTEGER NOT NULL,
    tally TEXT NOT NULL,
    rows TEXT,
    PRIMARY KEY (audit, number)
);
"""
_AUDITS = """
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
    result TEXT,
    worker_deaths INTEGER NOT NULL DEFAULT 0
);
"""
_FROM_1_TO_2 = f"""
ALTER TABLE audits ADD COLUMN worker_deaths INTEGER NOT NULL DEFAULT 0;
UPDATE audits SET result = NULL, source = NULL;
UPDATE audits SET state = 'queued', started_at = NULL WHERE state = 'running';
DROP TABLE shards;
{_SHARDS}
"""
"""Rows and reports of version 1 say too little for a report of today: whoever waited for one gets
it, from the start; what had ended keeps its summary."""


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make a fresh file ours, or bring an older one up to date.

    Raises:
        StateUnavailable: a newer Fend made it.
        sqlite3.Error: it cannot be used.
    """
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    [version] = db.execute("PRAGMA user_version").fetchone()
    if version == 0:  # it counts for a fresh file only, and is a write, which a full disk refuses
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    if version > VERSION:
        raise StateUnavailable(
            f"{path} has format {version}, this version of Fend knows {VERSION}; "
            "set FEND_STATE_DIR to another folder"
        )
    if version == 0:
        _run(db, _AUDITS + _SHARDS)
    elif version == 1:
        _run(db, _without_unreadable(db) + _FROM_1_TO_2)
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("VACUUM")


def _run(db: sqlite3.Connection, statements: str) -> None:
    """All of it or nothing."""
    db.executescript(f"BEGIN EXCLUSIVE; {statements} PRAGMA user_version = {VERSION}; COMMIT;")


def _without_unreadable(db: sqlite3.Connection) -> str:
    """Statements that delete the audits whose spec means nothing any more."""
    unreadable = []
    for sequence, spec in db.execute("SELECT sequence, spec FROM audits"):
        try:
            AuditSpec.model_validate_json(spec)
        except ValidationError:
            unreadable.append(sequence)
    return "".join(f"DELETE FROM audits WHERE sequence = {number};" for number in unreadable)
