"""Following an audit live: over lost connections, restarts and ends."""

import itertools
import os
import signal
import sys
import time
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

AUDITS = "/v1/admin/audits"
BODY = {
    "preset": "quick",
    "model": "mnist",
    "dataset": "rendered-digits",
    "samples": 12,
    "shard_size": 4,
    "sanity_samples": 2,
    "threat": {"norm": "linf", "epsilon": 0.1},
}
SLOW = {**BODY, "attacks": [{"name": "pgd", "steps": 5000, "early_stop": False}]}
"""Takes longer than any test, in one shard."""


def told(event: dict[str, Any]) -> tuple[str, str, Any]:
    """An event but for what depends on when it is told."""
    data = {name: value for name, value in event["data"].items() if name != "eta_s"}
    return event["id"], event["event"], data


def test_nothing_is_lost_or_told_twice_over_a_restart(audit_service, tiny_bundle_dir, tmp_path):
    with audit_service(tiny_bundle_dir, tmp_path) as audits:
        audit_id = audits.start(BODY)
        # The connection breaks in the middle of a shard's events.
        seen = list(itertools.islice(audits.events(audit_id), 3))
        assert [event["event"] for event in seen] == ["state", "state", "progress"]
    with audit_service(tiny_bundle_dir, tmp_path) as audits:
        seen += audits.events(audit_id, seen[-1]["id"])
        everything = list(audits.events(audit_id))
        assert [told(event) for event in seen] == [told(event) for event in everything]
        assert list(audits.events(audit_id, seen[-1]["id"])) == []

        result = audits.finished(audit_id)
    names = ["state", "state", *["progress", "partial"] * 3, "end"]
    assert [event["event"] for event in everything] == names
    progress = [event["data"] for event in everything if event["event"] == "progress"]
    assert [(data["done"], data["total"]) for data in progress] == [(4, 12), (8, 12), (12, 12)]
    # The worst case so far, at the end, is the report's.
    last = everything[-2]["data"]
    assert last["clean"] == result["clean"]["defended"]
    assert last["worst_case"] == result["worst_case"]
    assert last["worst_case_by_knowledge"] == result["worst_case_by_knowledge"]
    assert everything[-1]["data"] == {"state": "succeeded", "error_code": None, "error": None}


def test_a_stream_ends_when_the_service_drains(
    audit_service, tiny_bundle_dir, tmp_path, until_dead
):
    with audit_service(tiny_bundle_dir, tmp_path, shutdown_timeout_s=60) as audits:
        audit_id = audits.start(SLOW)
        stream = audits.events(audit_id)
        assert [next(stream)["event"] for _ in range(2)] == ["state", "state"]
        started_s = time.monotonic()
        os.kill(audits.pid, signal.SIGTERM)
        assert list(stream) == []  # its end, and no broken connection
        until_dead(audits.pid)
        assert time.monotonic() - started_s < 60, "the stream held up the end"


def test_cancelling_is_told_and_a_reader_who_does_not_read_holds_up_nobody(
    audit_service, tiny_bundle_dir, tmp_path
):
    with audit_service(tiny_bundle_dir, tmp_path) as audits:
        slow, waiting = audits.start(SLOW), audits.start(SLOW)
        lazy = audits.events(slow)
        next(lazy)
        stream = audits.events(slow)
        assert next(stream)["data"] == {"state": "queued"}
        head = audits.http.head(f"{AUDITS}/{slow}/events")  # at once, though the stream goes on
        assert (head.status_code, head.headers["content-type"][:17]) == (200, "text/event-stream")
        audits.http.delete(f"{AUDITS}/{waiting}")
        audits.http.delete(f"{AUDITS}/{slow}")
        assert [event["event"] for event in stream] == ["state", "end"]
        assert [event["event"] for event in audits.events(waiting)] == ["state", "end"]
        assert len(list(audits.events(waiting, "no number"))) == 2  # from the beginning
        assert list(lazy)[-1]["data"]["state"] == "cancelled"
