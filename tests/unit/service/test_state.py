"""The database of the service: opened, refused, migrated."""

import asyncio
import errno
import json
import os
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from fend.attacks import FGSM
from fend.audit import AuditDocument, AuditSpec, Timing
from fend.errors import Conflict, Invalid
from service.app import create_app
from service.audits.event_log import EventLog
from service.audits.record import AuditRecord, AuditState
from service.audits.store import AuditStore
from service.audits.tally import Tally
from service.audits.uploads.uploaded_sets import UploadedSets
from service.inference.choices import Choice, Choices
from service.settings import Settings
from service.state import database as database_module
from service.state.database import FILE, Database
from service.state.tables import metadata
from service.state.trouble import StateUnavailable

NOW = datetime(2026, 1, 2, tzinfo=UTC)
OF_FORMAT_2 = Path(__file__).parents[2] / "fixtures" / "state_format_2.tar.gz"
"""The state of a service of commit accffc4 after kill -9, and what it had answered."""


def opened(state_dir: Path) -> Database:
    database = Database(state_dir)
    database.open()
    return database


def test_the_migrations_lead_to_the_tables_that_the_statements_are_for(open_database):
    with open_database().writing() as db:
        assert compare_metadata(MigrationContext.configure(db), metadata) == []


def test_choices_are_kept_each_for_itself(open_database):
    choices = Choices(open_database())
    assert choices.read() == {}
    choices.write("a", Choice(active="1"))
    choices.write("b", Choice(active=None, unloaded="2"))
    choices.write("a", Choice(active="3", previous="1"))
    assert Choices(open_database("other")).read() == {
        "a": Choice(active="3", previous="1"),
        "b": Choice(active=None, unloaded="2"),
    }


def sqlite_file(file: Path, script: str) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.executescript(script)


def without_the_middle(file: Path) -> None:
    database = opened(file.parent)
    store = AuditStore(database)
    spec = AuditSpec(model="mnist", attacks=(FGSM(),))
    for number in range(300):
        store.add(AuditRecord(f"{number}", AuditState.QUEUED, spec, "v", 1, 0, NOW), None)
    database.close()
    data = file.read_bytes()
    third = len(data) // 3
    file.write_bytes(data[:third] + b"\xff" * third + data[2 * third :])


def cut_off(file: Path) -> None:
    opened(file.parent).close()
    file.write_bytes(file.read_bytes()[:-5000])


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (Path.touch, "is empty.*backup"),
    "text": (lambda file: file.write_text("this is no database" * 100), "not a database.*backup"),
    "a folder": (Path.mkdir, "is no file"),
    "a link to nothing": (lambda file: file.symlink_to("nowhere"), "is no file"),
    "a pipe": (os.mkfifo, "is no file"),
    "without tables": (lambda file: sqlite_file(file, "VACUUM"), "no database of Fend.*backup"),
    "of another program": (
        lambda file: sqlite_file(file, "CREATE TABLE notes (note TEXT)"), "no database of Fend",
    ),
    "of a format to come": (
        lambda file: sqlite_file(file, "PRAGMA user_version = 9; CREATE TABLE a (b)"),
        "newer version.*install that version",
    ),
    "damaged": (without_the_middle, "(damaged|malformed).*backup"),
    "cut off": (cut_off, "(damaged|malformed).*backup"),
    "a log without its database": (
        lambda file: Path(f"{file}-wal").write_text("changes"), "is missing.*backup",
    ),
    "active versions that are none": (
        lambda file: file.with_name("active.json").write_text('{"mnist": {"active": 5}}'),
        r"active\.json cannot be read.*repair it",
    ),
    "active versions that are a folder": (
        lambda file: file.with_name("active.json").mkdir(), r"active\.json cannot be read",
    ),
    "no name": (lambda file: file.with_name("owner").touch(), "owner is damaged: delete it"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_state_that_cannot_be_used_is_told_in_a_line_and_stays_as_it_is(tmp_path, kind):
    def content() -> dict[str, bytes | None]:
        made_by_looking = ("opening.lock", "process-0.lock", f"{FILE}-shm", "owner")
        return {
            path.name: path.read_bytes() if path.is_file() else None
            for path in tmp_path.iterdir()
            if path.name not in made_by_looking
            and not (path.name == f"{FILE}-wal" and path.stat().st_size == 0)
        }

    make, says = UNUSABLE[kind]
    make(tmp_path / FILE)
    before = content()
    for _ in range(2):
        with pytest.raises(StateUnavailable, match=says) as refused:
            opened(tmp_path)
        assert str(tmp_path) in str(refused.value)
        assert "\n" not in str(refused.value)
        assert content() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("locked", ["", FILE, "owner"])
def test_a_place_that_may_not_be_written_is_refused(tmp_path, locked):
    opened(tmp_path).close()
    (tmp_path / locked).chmod(0o500 if not locked else 0o000 if locked == "owner" else 0o400)
    try:
        with pytest.raises(StateUnavailable, match="set FEND_STATE_DIR") as refused:
            opened(tmp_path)
    finally:
        (tmp_path / locked).chmod(0o700)
    assert "\n" not in str(refused.value)


def test_a_place_that_cannot_be_used_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StateUnavailable, match="FEND_STATE_DIR"):
        opened(file)
    for url in (
        "no url", "postgresql+psycopg://nobody@127.0.0.1:1/none", "mysql://nobody@127.0.0.1:1/none",
        "postgresql+no_such_driver://x/y",
    ):  # fmt: skip
        with pytest.raises(StateUnavailable, match="FEND_DATABASE_URL") as refused:
            Database(tmp_path, url).open()
        assert "\n" not in str(refused.value)


def test_a_start_that_fails_half_way_leaves_no_database(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(database_module.command, "upgrade", fail)
        with pytest.raises(StateUnavailable, match="make room"):
            opened(tmp_path)
    assert not list(tmp_path.glob(f"*{FILE}*"))
    opened(tmp_path).close()


def test_a_database_of_a_newer_version_is_left_alone(open_database):
    with open_database().writing() as db:
        db.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StateUnavailable, match=r"newer version.*install that version"):
        open_database()


@pytest.mark.parametrize(
    "damage",
    [
        {"spec": "{"},
        {"spec": '{"model": "mnist"}'},
        {"state": "walking"},
        {"total": None},
        {"created_at": "yesterday"},
        {"finished_at": "soon"},
        {"model_version": b"\xff\xfe"},
    ],
    ids=str,
)
def test_a_row_that_cannot_be_read_hides_no_other_and_stays(tmp_path, damage):
    told: list[str] = []
    database = Database(tmp_path, on_unreadable=told.append)
    database.open()
    store = AuditStore(database)
    spec = AuditSpec(model="mnist", attacks=(FGSM(),))
    for audit_id in ("good", "bad"):
        store.add(
            AuditRecord(audit_id, AuditState.QUEUED, spec, "v", 1, 0, datetime.now(UTC)), audit_id
        )
    with closing(sqlite3.connect(tmp_path / FILE)) as file:
        file.executescript("PRAGMA writable_schema = ON; UPDATE sqlite_master SET sql = "
                           "replace(sql, 'total INTEGER NOT NULL', 'total INTEGER')")  # fmt: skip
    database.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as file:
        [(column, value)] = damage.items()
        file.execute(f"UPDATE audits SET {column} = ? WHERE id = 'bad'", (value,))
        file.commit()
        before = file.execute("SELECT * FROM audits WHERE id = 'bad'").fetchall()
    database.open()
    for _ in range(2):
        assert [audit.id for audit in store.newest(9)] == ["good"]
    assert store.get("bad") is None
    with pytest.raises(Invalid, match="new key"):
        store.by_idempotency_key("bad")
    claimed = store.claim(datetime.now(UTC))
    assert claimed.id == "good"
    assert store.claim(datetime.now(UTC)) is not None, "it is still ours"
    assert told == ["audit"]
    database.close()
    with closing(sqlite3.connect(tmp_path / FILE)) as file:
        assert file.execute("SELECT * FROM audits WHERE id = 'bad'").fetchall() == before


def test_a_service_starts_beside_a_row_that_cannot_be_read(tmp_path, app_settings, serve_app):
    database = opened(tmp_path)
    spec = AuditSpec(model="mnist", attacks=(FGSM(),))
    for audit_id in ("good", "bad"):
        AuditStore(database).add(
            AuditRecord(audit_id, AuditState.QUEUED, spec, "v", 1, 0, NOW), None
        )
        AuditStore(database).end(audit_id, AuditState.CANCELLED, datetime.now(UTC))
    with database.writing() as db:
        db.execute(sa.text("UPDATE audits SET spec = '{', result = '{' WHERE id = 'bad'"))
    database.close()
    settings = app_settings.model_copy(update={"state_dir": tmp_path})
    headers = {"Authorization": f"Bearer {settings.admin_token.get_secret_value()}"}
    with serve_app(create_app(settings)) as client:
        listed = client.get("/v1/admin/audits", headers=headers).json()["audits"]
        assert [audit["id"] for audit in listed] == ["good"]
        assert client.get("/v1/admin/audits/bad", headers=headers).status_code == 404
        assert 'fend_state_unreadable_total{kind="audit"} 1.0' in client.get("/metrics").text


def test_choices_and_uploads_that_cannot_be_read_hide_no_others(tmp_path):
    told: list[str] = []
    database = Database(tmp_path, on_unreadable=told.append)
    database.open()
    choices = Choices(database)
    choices.write("a", Choice(active="1"))
    choices.write("b", Choice(active="2"))
    with closing(sqlite3.connect(tmp_path / FILE)) as file:
        file.execute("UPDATE active_versions SET active = ? WHERE model = 'b'", (b"\xff",))
        file.execute("INSERT INTO uploads VALUES ('0123456789abcdef', 'soon', 1, '{')")
        file.commit()
    for name in ("0123456789abcdef", "1123456789abcdef"):
        (tmp_path / "datasets" / name).mkdir(parents=True)
    (tmp_path / "datasets" / "1123456789abcdef" / "summary.json").write_text("{")
    assert choices.read() == {"a": Choice(active="1")}
    sets = UploadedSets(Settings(state_dir=tmp_path), database)
    asyncio.run(sets.open())
    assert asyncio.run(sets.all()) == []
    with pytest.raises(Invalid, match="delete the set"):
        asyncio.run(sets.get("1123456789abcdef"))
    assert told == ["active version", "upload", "upload"]
    database.close()


def test_processes_have_names_of_their_own_and_get_them_back(tmp_path):
    first, second = opened(tmp_path), opened(tmp_path)
    names = [first.owner, second.owner]
    assert len(set(names)) == 2
    first.close()
    again = opened(tmp_path)
    assert again.owner == names[0]
    for database in (again, second):
        database.close()


def test_deleting_shrinks_the_file(tmp_path):
    database = opened(tmp_path)
    store = AuditStore(database)
    spec = AuditSpec(model="mnist", attacks=(FGSM(),))
    store.add(AuditRecord("a", AuditState.QUEUED, spec, "v", 1, 0, datetime.now(UTC)), None)
    store.add_shard("a", 0, 1, Tally(n=1), "x" * 4_000_000, datetime.now(UTC))
    store.end("a", AuditState.CANCELLED, datetime.now(UTC))
    store.drop_rows(0)
    database.reclaim_space()
    database.close()  # which also empties the log of writes
    assert (tmp_path / FILE).stat().st_size < 200_000


@pytest.fixture
def format_2(tmp_path) -> tuple[Path, dict[str, Any]]:
    """The state folder, and what the service had answered."""
    with tarfile.open(OF_FORMAT_2) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "state", json.loads((tmp_path / "expected.json").read_text())


def test_nothing_of_a_state_of_the_last_version_is_lost(format_2):
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
        assert (resumed.id, resumed.done) == (expected["running"], 1)
        database.close()


def test_a_state_of_the_last_version_that_cannot_be_read_whole_stays_as_it_is(format_2):
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


def test_a_file_of_the_first_version_loses_no_accepted_audit(tmp_path):
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
