"""The clock is set by an hour while the service works: deadlines, estimates, durations, retention
and events go on as if nothing had happened."""

import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import until

RunServer = Callable[..., AbstractContextManager[Any]]
Digits = list[tuple[bytes, str]]

AUDITS = "/v1/admin/audits"
HOUR_S = 3600
LONG_S = 1200
"""More than anything here takes, and less than the clock is set by."""

# Only the wall clock: CLOCK_MONOTONIC stays as it is, as when an administrator or NTP sets it.
SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
static volatile long long *offset_s;
static int (*real_gettime)(clockid_t, struct timespec *);
__attribute__((constructor)) static void open_offset(void) {
    int file = open(getenv("TEST_CLOCK_OFFSET"), O_RDONLY);
    offset_s = mmap(0, sizeof *offset_s, PROT_READ, MAP_SHARED, file, 0);
    real_gettime = dlsym(RTLD_NEXT, "clock_gettime");
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!real_gettime) open_offset();
    int failed = real_gettime(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset_s;
    return failed;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    int failed = clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return failed;
}
time_t time(time_t *out) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (out) *out = precise.tv_sec;
    return precise.tv_sec;
}
"""


@pytest.fixture
def set_clock(tmp_path, monkeypatch) -> Callable[[int], None]:
    """`set_clock(seconds)` moves the wall clock of the processes that are started from now on."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("setting the clock of one process needs Linux and a C compiler")
    source, library, offset = (tmp_path / name for name in ("clock.c", "clock.so", "offset"))
    source.write_text(SHIM)
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True
    )

    def move(seconds: int) -> None:
        with offset.open("r+b" if offset.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))

    move(0)
    monkeypatch.setenv("TEST_CLOCK_OFFSET", str(offset))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    return move


@pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S], ids=["forward", "back"])
def test_setting_the_clock_disturbs_nothing(
    run_server: RunServer, tiny_bundle_dir: Path, tmp_path: Path, digit_pngs: Digits,
    set_clock: Callable[[int], None], jump_s: int,
) -> None:  # fmt: skip
    state_dir = tmp_path / "state"
    with run_server(
        tiny_bundle_dir, state_dir, queue_size=4, request_timeout_s=60, worker_priority="normal"
    ) as server:
        headers = {"Authorization": f"Bearer {server.token}"}
        with httpx.Client(base_url=server.base_url, headers=headers, timeout=120) as http:
            before = ended(http, start_audit(http, samples=2))
            audit_id = start_audit(http)
            until(lambda: get(http, audit_id)["progress"]["done"] > 0)
            with http.stream("GET", f"{AUDITS}/{audit_id}/events") as stream:
                lines = stream.iter_lines()
                until_line(lines, "event: progress")
                clock_before_s = server_clock_s(http)
                set_clock(jump_s)
                moved_s = clock_before_s + jump_s
                until(lambda: abs(server_clock_s(http) - moved_s) < LONG_S)  # uvicorn keeps it 1 s

                assert_answers_in_time(http, digit_pngs)
                running = get(http, audit_id)
                assert running["state"] == "running", "too short to be disturbed"
                estimate_s = running["progress"]["eta_s"]
                assert estimate_s is None or 0 <= estimate_s < LONG_S
                until_line(lines, "event: end")
            assert ended(http, audit_id)["state"] == "succeeded"
            assert 0 <= wall_time_s(http, audit_id) < LONG_S
            assert 0 <= total_duration_s(http) < LONG_S
            after = ended(http, start_audit(http, samples=2))
            listed = [audit["id"] for audit in http.get(AUDITS).json()["audits"]]
            assert listed == [after["id"], audit_id, before["id"]], "newest first, none deleted"
            assert after["result"] == before["result"]
            assert http.get("/readyz").status_code == 200


def test_a_clock_that_goes_back_over_a_restart_makes_no_negative_duration(
    run_server, tiny_bundle_dir, tmp_path, set_clock
):
    state_dir = tmp_path / "state"
    with run_server(tiny_bundle_dir, state_dir, worker_priority="normal") as server:
        headers = {"Authorization": f"Bearer {server.token}"}
        with httpx.Client(base_url=server.base_url, headers=headers) as http:
            audit_id = start_audit(http)
            until(lambda: get(http, audit_id)["progress"]["done"] > 0)
    set_clock(-HOUR_S)
    with run_server(tiny_bundle_dir, state_dir, worker_priority="normal") as server:
        headers = {"Authorization": f"Bearer {server.token}"}
        with httpx.Client(base_url=server.base_url, headers=headers) as http:
            assert ended(http, audit_id)["state"] == "succeeded"
            assert wall_time_s(http, audit_id) >= 0
            assert total_duration_s(http) >= 0


def start_audit(http: httpx.Client, samples: int = 20) -> str:
    body = {
        "model": "mnist",
        "dataset": "rendered-digits",
        "samples": samples,
        "shard_size": 2,
        "sanity_samples": 0,
        "threat": {"norm": "linf", "epsilon": 0.1},
        "attacks": [{"name": "pgd", "steps": 150, "early_stop": False}],
    }
    return str(http.post(AUDITS, json=body).json()["id"])


def get(http: httpx.Client, audit_id: str) -> dict[str, Any]:
    return dict(http.get(f"{AUDITS}/{audit_id}").json())


def ended(http: httpx.Client, audit_id: str) -> dict[str, Any]:
    until(lambda: get(http, audit_id)["state"] not in ("queued", "running"))
    return get(http, audit_id)


def until_line(lines: Any, wanted: str) -> None:
    assert any(line == wanted for line in lines), f"the stream ended without {wanted!r}"


def server_clock_s(http: httpx.Client) -> float:
    return parsedate_to_datetime(http.get("/livez").headers["date"]).timestamp()


def assert_answers_in_time(http: httpx.Client, digits: Digits) -> None:
    """Many at once into a short queue: each is answered, or told to come back soon."""

    def ask(data: bytes) -> httpx.Response:
        return http.post("/v1/classify", content=data, headers={"Content-Type": "image/png"})

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, [data for data, _ in digits * 4]))
    assert {answer.status_code for answer in answers} <= {200, 429}, "no deadline has passed"
    assert any(answer.status_code == 200 for answer in answers)
    for answer in answers:
        if answer.status_code == 429:
            assert 1 <= int(answer.headers["retry-after"]) < LONG_S


def wall_time_s(http: httpx.Client, audit_id: str) -> float:
    document = json.loads(http.get(f"{AUDITS}/{audit_id}/report?format=json").text)
    return float(document["timing"]["wall_time_s"])


def total_duration_s(http: httpx.Client) -> float:
    """Of the audits that have succeeded, as Prometheus is told."""
    found = re.search(
        r'^fend_audit_duration_seconds_sum\{state="succeeded"\} (\S+)$',
        http.get("/metrics").text,
        re.MULTILINE,
    )
    return float(found[1])
