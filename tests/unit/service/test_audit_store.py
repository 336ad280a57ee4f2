"""Audits in the database: what is kept, and who works on what. On SQLite and on Postgres."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from fend.attacks import FGSM
from fend.audit import ROWS, AuditSpec
from fend.audit.rows import CleanRow
from fend.errors import NotFound
from service.audits import store as store_module
from service.audits.record import AuditRecord, AuditState
from service.audits.store import AuditStore
from service.audits.tally import Tally
from service.state.tables import audits

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 4, 0, 0, tzinfo=UTC)


def record(audit_id: str, **changes: str) -> AuditRecord:
    spec = AuditSpec.model_validate({"model": "mnist", "attacks": (FGSM(),), **changes})
    return AuditRecord(audit_id, AuditState.QUEUED, spec, "sha256:0", 100, 0, NOW)


def row(index: int) -> CleanRow:
    return CleanRow(
        index=index, label=1, answer=None, confidence=None, undefended_answer=1,
        undefended_confidence=0.1,
    )  # fmt: skip


def claimed(store: AuditStore) -> str | None:
    found = store.claim(NOW)
    return None if found is None else found.id


def add_shard(store: AuditStore, audit_id: str, number: int, *indices: int) -> None:
    rows = ROWS.dump_json([row(index) for index in indices]).decode()
    store.add_shard(audit_id, number, len(indices), Tally(n=len(indices)), rows, NOW)


def test_what_was_running_comes_before_what_waits(open_database):
    store = AuditStore(open_database())
    for audit_id in ("a", "b", "c"):
        assert store.add(record(audit_id), None)
    store.end("a", AuditState.CANCELLED, NOW)
    assert {audit.id: audit.ahead for audit in store.newest(9)} == {"a": 0, "b": 0, "c": 1}
    assert claimed(store) == "b"
    store.add(record("d"), None)
    store = AuditStore(open_database())
    order = []
    while (found := store.claim(NOW)) is not None:
        order.append((found.id, found.state))
        store.end(found.id, AuditState.FAILED, NOW)
    assert order == [
        ("b", AuditState.RUNNING), ("c", AuditState.QUEUED), ("d", AuditState.QUEUED),
    ]  # fmt: skip


def test_an_audit_is_worked_on_by_one_process_until_its_heartbeat_stops(open_database, monkeypatch):
    clock_s = [0.0]
    monkeypatch.setattr(store_module.time, "monotonic", lambda: clock_s[0])
    first, second = AuditStore(open_database()), AuditStore(open_database("other"))
    first.add(record("a"), None)
    assert claimed(first) == "a"
    for _ in range(4):
        assert claimed(second) is None
        clock_s[0] += store_module.LEASE_S - 1
        assert first.renew("a")
    assert claimed(second) is None
    clock_s[0] += store_module.LEASE_S
    assert claimed(second) == "a"
    assert not first.renew("a")
    first.release("a")
    assert second.renew("a"), "who lost the lease cannot give it away"
    second.release("a")
    assert claimed(first) == "a"
    second.end("a", AuditState.CANCELLED, NOW)
    assert not first.renew("a")


def test_a_key_accepts_one_audit(open_database):
    first, second = AuditStore(open_database()), AuditStore(open_database("other"))
    assert first.add(record("a"), "key")
    assert not second.add(record("b"), "key")
    found = second.by_idempotency_key("key")
    assert (found.id, second.get("b")) == ("a", None)
    assert first.add(record("c"), None)
    assert first.add(record("d"), None)


def test_an_audit_of_a_data_set_that_was_deleted_is_not_accepted(open_database):
    store = AuditStore(open_database())
    with pytest.raises(NotFound):
        store.add(record("a", dataset="upload:0123456789abcdef"), None)
    assert store.newest(9) == []


def test_finished_shards_are_kept_and_only_once(open_database):
    store = AuditStore(open_database())
    store.add(record("a"), None)
    add_shard(store, "a", 0, 0, 1)
    add_shard(store, "a", 1, 2, 3)
    add_shard(store, "a", 1, 8, 9)
    store = AuditStore(open_database())
    assert store.finished_shards("a") == 2
    assert list(store.rows("a")) == [[row(0), row(1)], [row(2), row(3)]]
    assert [(shard.number, shard.tally.n) for shard in store.shards("a", 1)] == [(1, 2)]
    kept = store.get("a")
    assert (kept.done, kept.total, kept.progress_at) == (4, 100, NOW)


def test_an_end_is_final(open_database):
    store = AuditStore(open_database())
    store.add(record("a"), None)
    assert store.end("a", AuditState.CANCELLED, NOW)
    assert not store.claim(LATER)
    assert not store.end("a", AuditState.SUCCEEDED, LATER)
    kept = store.get("a")
    assert (kept.state, kept.finished_at) == (AuditState.CANCELLED, NOW)


def test_a_resumed_audit_keeps_the_time_of_its_first_start_and_its_deaths(open_database):
    store = AuditStore(open_database())
    store.add(record("a"), None)
    store.claim(NOW)
    store.add_worker_death("a")
    store = AuditStore(open_database())
    store.claim(LATER)
    store.add_worker_death("a")
    kept = store.get("a")
    assert (kept.started_at, kept.worker_deaths) == (NOW, 2)


def test_rows_are_deleted_before_audits_and_only_of_what_has_ended(open_database):
    store = AuditStore(open_database())
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


def test_a_report_of_another_format_is_none(open_database):
    database = open_database()
    store = AuditStore(database)
    store.add(record("a"), None)
    with database.writing() as db:
        db.execute(sa.update(audits).values(result='{"format": "fend-audit/1"}'))
    assert store.result("a") is None
