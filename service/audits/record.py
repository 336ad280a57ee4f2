"""An audit as the service knows it: its state, its request, how far it is."""

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
    """How often its process ended without a word and was replaced."""
    rows_kept: bool = True
    """Whether the raw rows of its finished shards are still there: retention deletes them first."""
