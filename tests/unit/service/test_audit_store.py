"""The file of audits: what it keeps, and who may have it."""

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fend.attacks import FGSM
from fend.audit import ROWS, AuditSpec, CleanRow
from service.audits.record import AuditRecord, AuditState
from service.audits.store import FILE, AuditStore
from service.audits.tally import Tally
from service.runtime.state import StateUnavailable

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 4, 0, 0, tzinfo=UTC)


def record(audit_id: str, model: str = "mnist") -> AuditRecord:
    spec = AuditSpec(model=model, attacks=(FGSM(),))
    return AuditRecord(audit_id, AuditState.QUEUED, spec, "sha256:0", 100, 0, NOW)


def row(index: int) -> CleanRow:
    return CleanRow(
        index=index, label=1, answer=None, confidence=None, undefended_answer=1,
        undefended_confidence=0.1,
    )  # fmt: skip


def add_shard(store: AuditStore, audit_id: str, number: int, *indices: int) -> None:
    rows = ROWS.dump_json([row(index) for index in indices]).decode()
    store.add_shard(audit_id, number, len(indices), Tally(n=len(indices)), rows)


def test_what_was_running_comes_before_what_waits(tmp_path: Path) -> None:
    store = AuditStore(tmp_path)
    for audit_id in ("a", "b", "c"):
        store.add(record(audit_id), None)
    store.start("b", NOW)
    store.close()
    store = AuditStore(tmp_path)
    order = []
    while (pending := store.next_pending()) is not None:
        order.append(pending.id)
        store.end(pending.id, AuditState.FAILED, NOW)
    assert order == ["b", "a", "c"]
    store.close()


def test_finished_shards_are_kept_and_only_once(tmp_path: Path) -> None:
    store = AuditStore(tmp_path)
    store.add(record("a"), None)
    add_shard(store, "a", 0, 0, 1)
    add_shard(store, "a", 1, 2, 3)
    add_shard(store, "a", 1, 8, 9)
    store.close()
    store = AuditStore(tmp_path)
    assert store.finished_shards("a") == 2
    assert list(store.rows("a")) == [[row(0), row(1)], [row(2), row(3)]]
    assert [(shard.number, shard.tally.n) for shard in store.shards("a", 1)] == [(1, 2)]
    kept = store.get("a")
    assert kept is not None
    assert (kept.done, kept.total) == (4, 100)
    store.close()


def test_an_end_is_final(tmp_path: Path) -> None:
    store = AuditStore(tmp_path)
    store.add(record("a"), None)
    assert store.end("a", AuditState.CANCELLED, NOW)
    assert not store.start("a", LATER)
    assert not store.end("a", AuditState.SUCCEEDED, LATER)
    kept = store.get("a")
    assert kept is not None
    assert (kept.state, kept.finished_at) == (AuditState.CANCELLED, NOW)
    store.close()


def test_a_resumed_audit_keeps_the_time_of_its_first_start_and_its_deaths(tmp_path: Path) -> None:
    store = AuditStore(tmp_path)
    store.add(record("a"), None)
    store.start("a", NOW)
    store.add_worker_death("a")
    store.close()
    store = AuditStore(tmp_path)
    store.start("a", LATER)
    store.add_worker_death("a")
    kept = store.get("a")
    assert kept is not None
    assert (kept.started_at, kept.worker_deaths) == (NOW, 2)
    store.close()


def test_rows_are_deleted_before_audits_and_only_of_what_has_ended(tmp_path: Path) -> None:
    store = AuditStore(tmp_path)
    for audit_id in ("oldest", "old", "new", "running"):
        store.add(record(audit_id), None)
        add_shard(store, audit_id, 0, 1, 2)
        if audit_id != "running":
            store.end(audit_id, AuditState.CANCELLED, NOW)

    assert store.drop_rows(keep=1) == 2
    assert store.drop_rows(keep=1) == 0
    found = {audit.id: audit for audit in store.newest(9)}
    assert {name: audit.rows_kept for name, audit in found.items()} == {
        "running": True, "new": True, "old": False, "oldest": False,
    }  # fmt: skip
    assert found["old"].done == 2
    assert len(list(store.rows("new"))) == 1
    assert list(store.rows("old")) == []

    assert store.drop_audits(2, NOW - timedelta(days=1)) == 1
    assert {audit.id for audit in store.newest(9)} == {"old", "new", "running"}
    assert store.drop_audits(2, NOW + timedelta(days=1)) == 2
    assert {audit.id for audit in store.newest(9)} == {"running"}
    assert store.finished_shards("old") == 0
    store.close()


def test_deleting_shrinks_the_file(tmp_path: Path) -> None:
    store = AuditStore(tmp_path)
    store.add(record("a"), None)
    store.add_shard("a", 0, 1, Tally(n=1), ROWS.dump_json([row(i) for i in range(20_000)]).decode())
    store.end("a", AuditState.CANCELLED, NOW)
    store.drop_rows(0)
    store.give_back_space()
    store.close()  # which also empties the log of writes
    assert (tmp_path / FILE).stat().st_size < 200_000


def test_a_report_of_another_format_is_none(tmp_path: Path) -> None:
    store = AuditStore(tmp_path)
    store.add(record("a"), None)
    store.close()
    database = sqlite3.connect(tmp_path / FILE)
    database.execute(
        "UPDATE audits SET state = 'succeeded', result = '{\"format\": \"fend-audit/1\"}'"
    )
    database.commit()
    database.close()
    store = AuditStore(tmp_path)
    assert store.result("a") is None
    store.close()


def test_an_audit_that_needs_a_data_set_is_found(tmp_path: Path) -> None:
    store = AuditStore(tmp_path)
    store.add(record("a"), None)
    found = store.pending_on("mnist:test")
    assert found is not None
    assert found.id == "a"
    assert store.pending_on("mnist:train") is None
    store.end("a", AuditState.CANCELLED, NOW)
    assert store.pending_on("mnist:test") is None
    store.close()


def test_a_state_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StateUnavailable, match="FEND_STATE_DIR"):
        AuditStore(file)
    (tmp_path / FILE).write_bytes(b"this is no database" * 100)
    with pytest.raises(StateUnavailable, match="not a database"):
        AuditStore(tmp_path)


def test_two_services_cannot_share_a_state(tmp_path: Path) -> None:
    first = AuditStore(tmp_path)
    with pytest.raises(StateUnavailable, match="of its own"):
        AuditStore(tmp_path)
    first.close()
    AuditStore(tmp_path).close()


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    AuditStore(tmp_path).close()
    database = sqlite3.connect(tmp_path / FILE)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StateUnavailable, match="format 99"):
        AuditStore(tmp_path)


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
    spec = record("x").spec.model_dump_json()
    database = sqlite3.connect(tmp_path / FILE)
    database.executescript(FORMAT_1)
    for audit_id, state, asked in (
        ("done", "succeeded", spec),
        ("half", "running", spec),
        ("odd", "failed", '{"nonsense": 1}'),
        ("waits", "queued", spec),
    ):
        database.execute(
            "INSERT INTO audits (id, state, model, model_version, spec, total, created_at, result)"
            " VALUES (?, ?, 'mnist', 'v', ?, 100, ?, 'old')",
            (audit_id, state, asked, NOW.isoformat()),
        )
        database.execute("INSERT INTO shards VALUES (?, 0, 50, 'old')", (audit_id,))
    database.commit()
    database.close()

    store = AuditStore(tmp_path)
    found = {audit.id: (audit.state, audit.done) for audit in store.newest(9)}
    assert found == {
        "done": (AuditState.SUCCEEDED, 0),
        "half": (AuditState.QUEUED, 0),  # from the start: its rows say too little today
        "waits": (AuditState.QUEUED, 0),
    }
    assert store.result("done") is None
    assert store.last_succeeded("mnist") is None
    store.close()
    AuditStore(tmp_path).close()
