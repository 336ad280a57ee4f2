"""What the audit routes answer."""

from datetime import datetime

from pydantic import BaseModel, Field

from fend.audit import AuditSpec, Report
from service.audits.record import AuditRecord, AuditState


class Progress(BaseModel):
    """How far an audit is, in images."""

    done: int
    total: int
    eta_s: float | None = Field(description="Seconds left at the pace so far, once it is known.")


class AuditError(BaseModel):
    """Why an audit failed."""

    code: str
    message: str


class AuditSummary(BaseModel):
    """An audit at this moment. Times are UTC."""

    id: str
    state: AuditState
    spec: AuditSpec
    model_version: str
    progress: Progress
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


def summary(record: AuditRecord, eta_s: float | None) -> AuditSummary:
    """The audit as the routes show it."""
    return AuditSummary(
        id=record.id,
        state=record.state,
        spec=record.spec,
        model_version=record.model_version,
        progress=Progress(done=record.done, total=record.total, eta_s=eta_s),
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


def detail(record: AuditRecord, eta_s: float | None, result: Report | None) -> AuditDetail:
    """The audit as the routes show it, with its result."""
    return AuditDetail(**dict(summary(record, eta_s)), result=result)
