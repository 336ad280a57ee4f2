"""What happened to an audit, as numbered events: 1 queued, 2 running, two for each shard, then the
end.

The numbers follow from what is on disk, the state and the finished shards. So they are the same
after a restart of the service, and a reader who knows its last number gets every later event.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from service.audits.record import AuditRecord, AuditState
from service.audits.store import FinishedShard
from service.audits.tally import PartialResult, Tally, partial_result


class StateEvent(BaseModel):
    """The audit waits, or began to run."""

    state: AuditState


class ProgressEvent(BaseModel):
    """A shard was finished."""

    done: int
    total: int
    eta_s: float | None
    """Seconds left at the pace so far; None while unknown and in replayed events."""


class EndEvent(BaseModel):
    """The last event."""

    state: AuditState
    error_code: str | None
    error: str | None


@dataclass(frozen=True)
class Event:
    """One event; `id` counts from 1."""

    id: int
    name: Literal["state", "progress", "partial", "end"]
    data: StateEvent | ProgressEvent | PartialResult | EndEvent


class EventLog:
    """Gives the events of one audit in order, as `advance` is told what is on disk."""

    def __init__(self, total: int, after: int) -> None:
        """`total`: images of the audit; `after`: the reader's last number, 0 for none."""
        self._total = total
        self._after = after
        self._last = 0
        self._tally = Tally()
        self.shards = 0
        """Finished shards that are told already."""

    def advance(
        self, record: AuditRecord, shards: list[FinishedShard], eta_s: float | None
    ) -> Iterator[Event]:
        """The events since the last time that the reader does not know.

        `shards` are the finished ones from number `self.shards` on, read after `record`, so that
        none is missing when the record says that the audit has ended.
        """
        for event in self._advance(record, shards, eta_s):
            if event.id > self._after:
                yield event

    def _advance(
        self, record: AuditRecord, shards: list[FinishedShard], eta_s: float | None
    ) -> Iterator[Event]:
        if self._last == 0:
            yield self._next("state", StateEvent(state=AuditState.QUEUED))
        if record.started_at is not None:
            if self._last == 1:
                yield self._next("state", StateEvent(state=AuditState.RUNNING))
            for shard in shards:
                self.shards += 1
                if shard.images == 0:  # of served answers
                    continue
                self._tally += shard.tally
                newest = shard is shards[-1]
                progress = ProgressEvent(
                    done=self._tally.n, total=self._total, eta_s=eta_s if newest else None
                )
                yield self._next("progress", progress)
                yield self._next("partial", partial_result(self._tally))
        if record.state.ended:
            end = EndEvent(state=record.state, error_code=record.error_code, error=record.error)
            yield self._next("end", end)

    def _next(
        self,
        name: Literal["state", "progress", "partial", "end"],
        data: StateEvent | ProgressEvent | PartialResult | EndEvent,
    ) -> Event:
        self._last += 1
        return Event(self._last, name, data)
