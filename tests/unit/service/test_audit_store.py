"""The file of audits: what it keeps, and who may have it."""

import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fend.attacks import FGSM
from fend.audit import AuditSpec, CleanRow
from service.runtime.audit_store import (
    FILE,
    AuditRecord,
    AuditState,
    AuditStore,
    StateUnavailable,
)

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = datetime(2026, 1, 2, 4, 0, 0, tzinfo=UTC)


def record(audit_id: str) -> AuditRecord:
    spec = AuditSpec(model="mnist", attacks=(FGSM(),))
    return AuditRecord(audit_id, AuditState.QUEUED, spec, "sha256:0", 100, 0, NOW)


def row(index: int) -> CleanRow:
    return CleanRow(
        index=index, label=1, answer=None, confidence=None, undefended_answer=1,
        undefended_confidence=0.1,
    )  # fmt: skip


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
    store.add_shard("a", 0, 2, [row(0), row(1)])
    store.add_shard("a", 1, 2, [row(2), row(3)])
    store.add_shard("a", 1, 2, [row(8), row(9)])
    store.close()
    store = AuditStore(tmp_path)
    assert store.finished_shards("a") == 2
    assert list(store.rows("a")) == [[row(0), row(1)], [row(2), row(3)]]
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


def test_a_resumed_audit_keeps_the_time_of_its_first_start(tmp_path: Path) -> None:
    store = AuditStore(tmp_path)
    store.add(record("a"), None)
    store.start("a", NOW)
    store.start("a", LATER)
    kept = store.get("a")
    assert kept is not None
    assert kept.started_at == NOW
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
