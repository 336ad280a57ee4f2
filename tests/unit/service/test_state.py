"""The database of the service: opened, refused, migrated."""

import asyncio
import json
import sqlite3
import tarfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from fend.attacks import FGSM
from fend.audit import AuditDocument, AuditSpec, Timing
from fend.errors import Conflict
from service.audits.event_log import EventLog
from service.audits.record import AuditRecord, AuditState
from service.audits.store import AuditStore
from service.audits.tally import Tally
from service.audits.uploads.uploaded_sets import UploadedSets
from service.inference.choices import Choice, Choices
from service.settings import Settings
from service.state.database import FILE, Database, StateUnavailable
from service.state.tables import metadata

OpenDatabase = Callable[..., Database]
OF_FORMAT_2 = Path(__file__).parents[2] / "fixtures" / "state_format_2.tar.gz"
"""The state of a service of commit accffc4 after kill -9, and what it had answered."""


def opened(state_dir: Path) -> Database:
    database = Database(state_dir)
    database.open()
    return database


def test_the_migrations_lead_to_the_tables_that_the_statements_are_for(
    open_database: OpenDatabase,
) -> None:
    with open_database().writing() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []


def test_choices_are_kept_each_for_itself(open_database: OpenDatabase) -> None:
    choices = Choices(open_database())
    assert choices.read() == {}
    choices.write("a", Choice(active="1"))
    choices.write("b", Choice(active=None, unloaded="2"))
    choices.write("a", Choice(active="3", previous="1"))
    assert Choices(open_database("other")).read() == {
        "a": Choice(active="3", previous="1"),
        "b": Choice(active=None, unloaded="2"),
    }


def test_a_state_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StateUnavailable, match="FEND_STATE_DIR"):
        opened(file)
    (tmp_path / FILE).write_bytes(b"this is no database" * 100)
    with pytest.raises(StateUnavailable, match="not a database"):
        opened(tmp_path)
    for url in ("no url", "postgresql+psycopg://nobody@127.0.0.1:1/none"):
        with pytest.raises(StateUnavailable, match="FEND_DATABASE_URL"):
            Database(tmp_path, url).open()


def test_a_database_of_a_newer_version_is_left_alone(open_database: OpenDatabase) -> None:
    with open_database().writing() as db:
        db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StateUnavailable, match="newer version"):
        open_database()


def test_processes_have_names_of_their_own_and_get_them_back(tmp_path: Path) -> None:
    first, second = opened(tmp_path), opened(tmp_path)
    names = [first.owner, second.owner]
    assert len(set(names)) == 2
    first.close()
    again = opened(tmp_path)
    assert again.owner == names[0]
    for database in (again, second):
        database.close()


def test_deleting_shrinks_the_file(tmp_path: Path) -> None:
    database = opened(tmp_path)
    store = AuditStore(database)
    spec = AuditSpec(model="mnist", attacks=(FGSM(),))
    store.add(AuditRecord("a", AuditState.QUEUED, spec, "v", 1, 0, datetime.now(UTC)), None)
    store.add_shard("a", 0, 1, Tally(n=1), "x" * 4_000_000)
    store.end("a", AuditState.CANCELLED, datetime.now(UTC))
    store.drop_rows(0)
    database.give_back_space()
    database.close()  # which also empties the log of writes
    assert (tmp_path / FILE).stat().st_size < 200_000


@pytest.fixture
def format_2(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """The state folder, and what the service had answered."""
    with tarfile.open(OF_FORMAT_2) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "state", json.loads((tmp_path / "expected.json").read_text())


def test_nothing_of_a_state_of_the_last_version_is_lost(
    format_2: tuple[Path, dict[str, Any]],
) -> None:
    state_dir, expected = format_2
    for _ in range(2):  # it is migrated once
        database = opened(state_dir)
        store = AuditStore(database)
        states = {audit.id: audit.state for audit in store.newest(9)}
        assert states == {
            expected["queued"]: AuditState.QUEUED,
            expected["running"]: AuditState.RUNNING,
            expected["cancelled"]: AuditState.CANCELLED,
            expected["first"]: AuditState.SUCCEEDED,
        }
        assert list(states)[-1] == expected["first"], "the newest is first"

        first = store.by_idempotency_key("first")
        report = store.result(expected["first"])
        assert first is not None
        assert report is not None
        assert first.started_at is not None
        assert first.finished_at is not None
        timing = Timing(
            started_at=first.started_at,
            finished_at=first.finished_at,
            wall_time_s=(first.finished_at - first.started_at).total_seconds(),
        )
        document = AuditDocument(result=report, timing=timing)
        assert document.model_dump_json() == expected["document"]
        rows = [row.model_dump_json() for shard in store.rows(first.id) for row in shard]
        assert "".join(row + "\n" for row in rows) == expected["samples"]
        events = EventLog(first.total, 0).advance(first, store.shards(first.id, 0), None)
        assert [event.data.model_dump_json() for event in events] == [
            line.removeprefix("data: ")
            for line in expected["events"].splitlines()
            if line.startswith("data: ")
        ]
        assert Choices(database).read() == {
            "mnist": Choice(active="sha256:aa", previous="sha256:bb"),
            "mnist-paper": Choice(active=None, previous="sha256:cc", unloaded="sha256:dd"),
        }
        sets = UploadedSets(Settings(state_dir=state_dir), database)
        asyncio.run(sets.open())
        [summary] = asyncio.run(sets.all())
        assert "upload:" + summary.id == expected["dataset"]
        with pytest.raises(Conflict, match=expected["running"]):
            asyncio.run(sets.delete(summary.id))

        resumed = store.claim(datetime.now(UTC))
        assert resumed is not None
        assert (resumed.id, resumed.done) == (expected["running"], 1)
        database.close()


def test_a_state_of_the_last_version_that_cannot_be_read_whole_stays_as_it_is(
    format_2: tuple[Path, dict[str, Any]],
) -> None:
    state_dir, _ = format_2
    choices = (state_dir / "active.json").read_text()
    (state_dir / "active.json").write_text("{")
    with pytest.raises(StateUnavailable, match=r"active\.json"):
        opened(state_dir)
    (state_dir / "active.json").write_text(choices)
    database = opened(state_dir)
    assert len(AuditStore(database).newest(9)) == 4
    assert len(Choices(database).read()) == 2
    database.close()


FORMAT_1 = """
CREATE TABLE audits (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    idempotency_key TEXT UNIQUE, state TEXT NOT NULL, model TEXT NOT NULL,
    model_version TEXT NOT NULL, spec TEXT NOT NULL, total INTEGER NOT NULL,
    created_at TEXT NOT NULL, started_at TEXT, finished_at TEXT, error_code TEXT, error TEXT,
    source TEXT, result TEXT
);
CREATE TABLE shards (
    audit TEXT NOT NULL REFERENCES audits (id), number INTEGER NOT NULL, images INTEGER NOT NULL,
    rows TEXT NOT NULL, PRIMARY KEY (audit, number)
);
PRAGMA user_version = 1;
"""


def test_a_file_of_the_first_version_loses_no_accepted_audit(tmp_path: Path) -> None:
    spec = AuditSpec(model="mnist", attacks=(FGSM(),)).model_dump_json()
    file = sqlite3.connect(tmp_path / FILE)
    file.executescript(FORMAT_1)
    for audit_id, state, asked in (
        ("done", "succeeded", spec),
        ("half", "running", spec),
        ("odd", "failed", '{"nonsense": 1}'),
        ("waits", "queued", spec),
    ):
        file.execute(
            "INSERT INTO audits (id, state, model, model_version, spec, total, created_at, result)"
            " VALUES (?, ?, 'mnist', 'v', ?, 100, '2026-01-02T03:04:05+00:00', 'old')",
            (audit_id, state, asked),
        )
        file.execute("INSERT INTO shards VALUES (?, 0, 50, 'old')", (audit_id,))
    file.commit()
    file.close()

    database = opened(tmp_path)
    store = AuditStore(database)
    found = {audit.id: (audit.state, audit.done) for audit in store.newest(9)}
    assert found == {
        "done": (AuditState.SUCCEEDED, 0),
        "half": (AuditState.QUEUED, 0),  # from the start: its rows say too little today
        "waits": (AuditState.QUEUED, 0),
    }
    assert store.result("done") is None
    assert store.last_succeeded("mnist") is None
    database.close()
