"""GET …/events: what happens to an audit, as server-sent events, for as long as it goes on.

Nothing waits in memory for a reader: each time that it has taken what there was, the disk is read
again from where it is. So a slow reader gets the same events as a fast one, only later.
"""

import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, format_sse_event

from service.api.problems import problem_docs
from service.api.services import services
from service.api.waiting import first_of
from service.audits.event_log import EventLog
from service.audits.jobs import AuditJobs, AuditUnknown
from service.observe.lifecycle import Lifecycle

HEARTBEAT_S = 15.0
RETRY_MS = 2000
"""How long a browser waits before it connects again."""

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Proxies must pass each event on at once."""

router = APIRouter(
    prefix="/v1/admin/audits", tags=["audits"], responses=problem_docs(401, 404, 422, 429, 503)
)


@router.get(
    "/{audit_id}/events",
    response_class=StreamingResponse,  # FastAPI would take the other one for a generator
    responses={
        200: {
            "description": "`state`, then `progress` and `partial` for each finished shard, then "
            "`end`. Ids count from 1 and stay the same over a restart of the service.",
            "content": {EventSourceResponse.media_type: {"schema": {"type": "string"}}},
        },
        204: {"description": "The audit has ended, and its end was told already."},
    },
)
async def audit_events(
    request: Request,
    audit_id: str,
    last_event_id: Annotated[
        str, Header(description="The id of the last event that was received; later ones follow.")
    ] = "",
) -> Response:
    """Follow an audit live, from its beginning or from `Last-Event-ID`."""
    jobs = services(request).audits
    record = await jobs.get(audit_id)
    after = int(last_event_id) if last_event_id.isdecimal() and len(last_event_id) < 16 else 0
    shards = await jobs.shards(audit_id, 0)  # raises what nothing could say later
    left = EventLog(record.total, after).advance(record, shards, None)
    if record.state.ended and not list(left):
        return Response(status_code=204)  # tells a browser to stop asking
    if request.state.head:  # the stream may go on for hours
        return EventSourceResponse(iter(()), headers=HEADERS)
    events = _stream(jobs, services(request).lifecycle, audit_id, EventLog(record.total, after))
    return EventSourceResponse(events, headers=HEADERS)


async def _stream(
    jobs: AuditJobs, lifecycle: Lifecycle, audit_id: str, log: EventLog
) -> AsyncIterator[bytes]:
    yield format_sse_event(retry=RETRY_MS)
    told_s = time.monotonic()
    while True:
        seen = jobs.changes.count
        try:
            record = await jobs.get(audit_id)
        except AuditUnknown:  # retention has deleted it meanwhile
            return
        shards = await jobs.shards(audit_id, log.shards)
        for event in log.advance(record, shards, jobs.eta_s(record)):
            told_s = time.monotonic()
            data = event.data.model_dump_json()
            yield format_sse_event(id=str(event.id), event=event.name, data_str=data)
        if record.state.ended:
            return
        if lifecycle.draining:
            yield format_sse_event(comment="the service stops; connect again for what follows")
            return
        if time.monotonic() - told_s >= HEARTBEAT_S:
            told_s = time.monotonic()
            waiting = jobs.waiting(record)
            reason = f": {waiting.reason}" if waiting else ""
            yield format_sse_event(comment=f"still here{reason}")
        await first_of(HEARTBEAT_S, jobs.changes.after(seen), lifecycle.wait_draining())
