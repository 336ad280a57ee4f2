"""What the audit routes answer."""

from datetime import datetime

from pydantic import BaseModel, Field

from fend.audit import AuditSpec, Report
from service.audits.jobs import AuditJobs
from service.audits.record import AuditRecord, AuditState, WaitingFor


class Progress(BaseModel):
    """How far an audit is, in images."""

    done: int
    total: int
    eta_s: float | None = Field(
        description="Seconds left at the pace so far; at most, before the first images are done."
    )


class AuditError(BaseModel):
    """Why an audit failed."""

    code: str
    message: str


class AuditSummary(BaseModel):
    """An audit at this moment. Times are UTC."""

    id: str
    state: AuditState
    waiting_for: WaitingFor | None = Field(
        description="Why nothing moves, or little: other `audits` come first, the `state` cannot "
        "be written, its `inputs` are opened, the `processor` is busy, or the service is asked for "
        "its `answers`."
    )
    reason: str | None = Field(description="The same, for people.")
    spec: AuditSpec
    model_version: str
    progress: Progress
    progress_at: datetime | None = Field(description="When the last images were done.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: AuditError | None
    worker_deaths: int = Field(
        description="How often the process that attacks died and was replaced; no result is lost."
    )
    rows_kept: bool = Field(description="Whether the raw rows are there: old ones are deleted.")


class AuditDetail(AuditSummary):
    """An audit and what it found."""

    result: Report | None = Field(
        description="The report; while the audit runs, of the images done so far."
    )


class AuditList(BaseModel):
    """Audits, newest first."""

    audits: list[AuditSummary]


def summary(jobs: AuditJobs, record: AuditRecord) -> AuditSummary:
    """The audit as the routes show it."""
    waiting = jobs.waiting(record)
    eta_s = None if record.state.ended else jobs.eta_s(record)
    return AuditSummary(
        id=record.id,
        state=record.state,
        waiting_for=waiting.what if waiting else None,
        reason=waiting.reason if waiting else None,
        spec=record.spec,
        model_version=record.model_version,
        progress=Progress(done=record.done, total=record.total, eta_s=eta_s),
        progress_at=record.progress_at,
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        error=(
            None
            if record.error_code is None
            else AuditError(code=record.error_code, message=record.error or "")
        ),
        worker_deaths=record.worker_deaths,
        rows_kept=record.rows_kept,
    )


def detail(jobs: AuditJobs, record: AuditRecord, result: Report | None) -> AuditDetail:
    """The audit as the routes show it, with its result."""
    return AuditDetail(**dict(summary(jobs, record)), result=result)
