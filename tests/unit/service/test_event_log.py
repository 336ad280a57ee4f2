"""The numbered events of an audit: the same ones whoever asks, whenever, however often."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from fend.attacks import FGSM
from fend.audit import AuditSpec
from fend.threat import Knowledge
from service.audits.event_log import Event, EventLog
from service.audits.record import AuditRecord, AuditState
from service.audits.store import FinishedShard
from service.audits.tally import Tally

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SPEC = AuditSpec(model="mnist", attacks=(FGSM(),))
QUEUED = AuditRecord("a", AuditState.QUEUED, SPEC, "sha256:0", 30, 0, NOW)
RUNNING = replace(QUEUED, state=AuditState.RUNNING, started_at=NOW)
ENDED = replace(RUNNING, state=AuditState.SUCCEEDED, finished_at=NOW)
TALLY = Tally(n=10, clean=9, held=3, held_by_knowledge={Knowledge.WHITE_BOX: 3})
SHARDS = [FinishedShard(number, 10, TALLY) for number in range(3)]
SERVED = FinishedShard(3, 0, Tally())


def events(log: EventLog, record: AuditRecord, shards: list[FinishedShard]) -> list[Event]:
    return list(log.advance(record, shards[log.shards :], 1.5))


def named(found: list[Event]) -> list[tuple[int, str]]:
    return [(event.id, event.name) for event in found]


def test_an_audit_that_is_followed_live_tells_everything_once() -> None:
    log = EventLog(30, 0)
    assert named(events(log, QUEUED, [])) == [(1, "state")]
    assert named(events(log, QUEUED, [])) == []
    assert named(events(log, RUNNING, SHARDS[:1])) == [
        (2, "state"), (3, "progress"), (4, "partial"),
    ]  # fmt: skip
    assert named(events(log, RUNNING, SHARDS[:1])) == []
    last = events(log, ENDED, SHARDS)
    assert named(last) == [
        (5, "progress"), (6, "partial"), (7, "progress"), (8, "partial"), (9, "end"),
    ]  # fmt: skip
    assert last[-2].data.model_dump()["n"] == 30
    worst = last[-2].data.model_dump()["worst_case_by_knowledge"][Knowledge.WHITE_BOX]
    assert (worst["correct"], worst["n"]) == (9, 30)


@pytest.mark.parametrize("cut", range(11))
def test_a_reader_who_comes_back_gets_each_event_exactly_once(cut: int) -> None:
    moments = [(QUEUED, 0), (RUNNING, 0), (RUNNING, 1), (RUNNING, 3), (ENDED, 4)]
    everything = events(EventLog(30, 0), ENDED, [*SHARDS, SERVED])
    seen: list[Event] = []
    log = EventLog(30, 0)
    for record, shards in moments:
        for event in events(log, record, [*SHARDS, SERVED][:shards]):
            if len(seen) < cut:
                seen.append(event)
    after = seen[-1].id if seen else 0
    rest = events(EventLog(30, after), ENDED, [*SHARDS, SERVED])
    assert named(seen + rest) == named(everything)
    assert [event.id for event in everything] == list(range(1, len(everything) + 1))


def test_shards_of_an_audit_that_started_a_moment_ago_wait_for_its_start() -> None:
    """The record is read before the shards, so it can be older."""
    log = EventLog(30, 0)
    found = [events(log, QUEUED, SHARDS[:1]), events(log, RUNNING, SHARDS[:1])]
    assert [event.name for event in itertools.chain(*found)] == [
        "state", "state", "progress", "partial",
    ]  # fmt: skip


def test_an_audit_that_never_ran_ends_after_its_first_event() -> None:
    cancelled = replace(QUEUED, state=AuditState.CANCELLED, finished_at=NOW)
    assert named(events(EventLog(30, 0), cancelled, [])) == [(1, "state"), (2, "end")]
    assert events(EventLog(30, 2), cancelled, []) == []
