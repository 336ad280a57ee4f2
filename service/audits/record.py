"""An audit as the service knows it: its state, its request, how far it is; and who hears of
changes."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from fend.audit import AuditSpec


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
    """Images whose shard is finished."""
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error_code: str | None = None
    error: str | None = None
    worker_deaths: int = 0
    """Times that its process exited without reporting an error and was replaced."""
    progress_at: datetime | None = None
    """Time when its last shard was finished."""
    ahead: int = 0
    """Audits that were accepted before it and have not ended, while it is queued."""
    rows_kept: bool = True
    """Whether the raw rows of its finished shards are still there: retention deletes them first."""


class WaitingFor(StrEnum):
    """What keeps an audit from going on, or from going on at full speed."""

    AUDITS = "audits"
    STATE = "state"
    INPUTS = "inputs"
    PROCESSOR = "processor"
    ANSWERS = "answers"


@dataclass(frozen=True)
class Waiting:
    """Why nothing, or little, moves."""

    what: WaitingFor
    reason: str
    """Sentence for people: what is waited for, and what can be done about it."""


class ChangeNotifier:
    """Counts the changes that this process makes to audits. Read `count`, then the database, then
    wait `after` that count: nothing is missed in between, and nothing piles up for a slow reader.
    """

    POLL_S = 1.0
    """Seconds after which to read again anyway: another process may have changed something."""

    def __init__(self) -> None:
        self._count = 0
        self._condition = asyncio.Condition()

    @property
    def count(self) -> int:
        """Changes so far."""
        return self._count

    async def announce(self) -> None:
        """Count one more, and wake up whoever waits."""
        async with self._condition:
            self._count += 1
            self._condition.notify_all()

    async def after(self, count: int) -> None:
        """Return as soon as there are more changes than `count`, or after `POLL_S`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.POLL_S), self._condition:
                await self._condition.wait_for(lambda: self._count > count)
