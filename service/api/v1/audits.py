"""The routes of audits. The app includes this router behind `require_admin`."""

import asyncio
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse

from fend.audit import PRESETS, AuditDocument, Timing, to_markdown
from fend.audit.render.html import CONTENT_POLICY, to_html
from service.api.problems import problem_docs
from service.api.services import services
from service.api.v1.audit_schemas import AuditDetail, AuditList, AuditSummary, detail, summary
from service.api.waiting import first_of
from service.audits.jobs import AuditJobs
from service.audits.record import AuditRecord

MAX_WAIT_S = 300.0

EXAMPLES: dict[str, Any] = {
    "quick": {"summary": "A first look", "value": {"preset": "quick", "model": "mnist"}},
    "overrides": {
        "summary": "A preset, and what differs",
        "value": {
            "preset": "paper",
            "model": "mnist",
            "samples": 1000,
            "threat": {"norm": "linf", "epsilon": 0.1},
        },
    },
    "full": {
        "summary": "Everything said",
        "value": {
            "model": "mnist",
            "dataset": "mnist:test",
            "samples": 500,
            "seed": 1,
            "threat": {"norm": "l2", "epsilon": 2.0},
            "knowledge": ["white_box"],
            "attacks": [{"name": "fgsm"}, {"name": "pgd", "steps": 40, "restarts": 5}],
        },
    },
}

HTML_HEADERS = {
    "Content-Security-Policy": f"{CONTENT_POLICY}; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
router = APIRouter(
    prefix="/v1/admin/audits", tags=["audits"], responses=problem_docs(401, 429, 503)
)


class ReportFormat(StrEnum):
    JSON = "json"
    HTML = "html"
    MARKDOWN = "markdown"


FORMATS = {
    "application/json": ReportFormat.JSON,
    "text/html": ReportFormat.HTML,
    "text/markdown": ReportFormat.MARKDOWN,
}
"""By media type; the first is for whoever does not mind."""


@router.post(
    "",
    status_code=202,
    response_model=AuditSummary,
    responses={
        200: {"description": "It ended within `wait`.", "model": AuditDetail},
        **problem_docs(400, 404, 408, 409, 413, 415, 422),
    },
)
async def start_audit(
    request: Request,
    response: Response,
    body: Annotated[
        dict[str, Any],
        Body(
            description=f"A whole spec, or a `preset` ({', '.join(PRESETS)}) and what differs "
            "from it. Only `model` is always needed.",
            openapi_examples=EXAMPLES,
        ),
    ],
    wait: Annotated[
        float | None,
        Query(ge=0, le=MAX_WAIT_S, description="Seconds to wait for the end before answering."),
    ] = None,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> AuditSummary | Response:
    """Attack a model beside serving. The answer has a `Location` to follow."""
    jobs = _jobs(request)
    record = await jobs.submit(jobs.spec_of(body), idempotency_key)
    location = {"Location": f"{router.prefix}/{record.id}"}
    if wait is not None:
        record = await _wait(request, record, wait)
        if record.state.ended:
            ended = detail(jobs, record, await jobs.result(record))
            return Response(
                ended.model_dump_json(), 200, headers=location, media_type="application/json"
            )
    response.headers.update(location)
    return summary(jobs, record)


@router.get("")
async def list_audits(request: Request) -> AuditList:
    """The last audits, newest first."""
    jobs = _jobs(request)
    records = await jobs.newest()
    return AuditList(audits=[summary(jobs, record) for record in records])


@router.get("/{audit_id}", responses=problem_docs(404, 422))
async def get_audit(request: Request, audit_id: str) -> AuditDetail:
    """How far an audit is, and what it found so far."""
    jobs = _jobs(request)
    record = await jobs.get(audit_id)
    return detail(jobs, record, await jobs.result(record))


@router.get(
    "/{audit_id}/report",
    response_model=AuditDocument,
    responses={
        200: {"content": {media_type: {} for media_type in list(FORMATS)[1:]}},
        **problem_docs(404, 409, 422),
    },
)
async def get_report(
    request: Request,
    audit_id: str,
    format: Annotated[
        ReportFormat | None, Query(description="Wins over the Accept header.")
    ] = None,
    accept: Annotated[str, Header()] = "",
) -> AuditDocument | Response:
    """The report of a finished audit: JSON, HTML or Markdown; a browser gets HTML."""
    jobs = _jobs(request)
    record = await jobs.get(audit_id)
    report = await jobs.report(record)
    if format is None:
        format = FORMATS[preferred(accept, list(FORMATS)) or "application/json"]
    timing = _timing(record)
    if format is ReportFormat.HTML:
        page = await asyncio.to_thread(to_html, report, timing)
        return HTMLResponse(page, headers=HTML_HEADERS)
    if format is ReportFormat.MARKDOWN:
        return PlainTextResponse(to_markdown(report), media_type="text/markdown")
    return AuditDocument(result=report, timing=timing)


@router.get(
    "/{audit_id}/samples",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-ndjson": {}}}, **problem_docs(404, 410, 422)},
)
async def get_samples(request: Request, audit_id: str) -> StreamingResponse:
    """The raw rows so far as JSON Lines. `kind` says what a row is of, such as `clean` or
    `attack`."""
    jobs = _jobs(request)
    shards = jobs.rows(await jobs.get(audit_id))

    def lines() -> Iterator[str]:
        for rows in shards:
            yield "".join(row.model_dump_json() + "\n" for row in rows)

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.delete("/{audit_id}", responses=problem_docs(404, 409, 422))
async def cancel_audit(request: Request, audit_id: str) -> AuditSummary:
    """Stop an audit at once. What it found so far stays."""
    jobs = _jobs(request)
    return summary(jobs, await jobs.cancel(audit_id))


def _jobs(request: Request) -> AuditJobs:
    return services(request).audits


async def _wait(request: Request, record: AuditRecord, timeout_s: float) -> AuditRecord:
    """Wait for the end of an audit, but not beyond the service's own: it drains meanwhile."""
    jobs = _jobs(request)
    lifecycle = services(request).lifecycle
    await first_of(timeout_s, jobs.wait_for_end(record.id), lifecycle.wait_draining())
    return await jobs.get(record.id)


def _timing(record: AuditRecord) -> Timing:
    assert record.started_at is not None, "an audit with a report has started"
    assert record.finished_at is not None, "an audit with a report has finished"
    return Timing(
        started_at=record.started_at,
        finished_at=record.finished_at,
        wall_time_s=(record.finished_at - record.started_at).total_seconds(),
    )


def preferred(accept: str, offers: Sequence[str]) -> str | None:
    """The media type of `offers` that `accept` (RFC 9110, 12.5.1) ranks highest; at equal rank the
    first.

    None when it names none of them, not even by a wildcard.
    """
    ranges = [_parse(item) for item in accept.split(",")]
    best, best_quality = None, 0.0
    for offer in offers:
        quality = _quality(offer, ranges)
        if quality > best_quality:
            best, best_quality = offer, quality
    return best


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """Quality of the most specific range that fits."""
    for pattern in (offer, f"{offer.partition('/')[0]}/*", "*/*"):
        for media_range, quality in ranges:
            if media_range == pattern:
                return quality
    return 0.0


def _parse(item: str) -> tuple[str, float]:
    media_range, *parameters = (part.strip().lower() for part in item.split(";"))
    quality = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                quality = 0.0
    return media_range, quality
