"""Audits on a real service: numbers, reports, refusals, cancelling, retention, priority."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

AUDITS = "/v1/admin/audits"
BODY = {
    "preset": "quick",
    "model": "mnist",
    "dataset": "rendered-digits",
    "samples": 45,
    "shard_size": 15,
    "sanity_samples": 6,
    "seed": 3,
    "threat": {"norm": "linf", "epsilon": 0.1},
}
SLOW = {**BODY, "attacks": [{"name": "pgd", "steps": 5000, "early_stop": False}]}
"""Takes longer than any test, in one shard."""
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


@pytest.fixture(scope="module")
def expected(tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `fend audit` says of `BODY`."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "spec.json").write_text(json.dumps(BODY))
    command = [
        sys.executable, "-c", "from fend.cli.main import main; main()", "audit", "mnist",
        "--models-dir", str(tiny_bundle_dir), "--spec", str(folder / "spec.json"),
        "--workers", "2", "--device", "cpu", "--output", str(folder / "report.json"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return json.loads((folder / "report.json").read_text())["result"]


@pytest.fixture(scope="module")
def audits(audit_service, tiny_bundle_dir, tmp_path_factory) -> Iterator[Any]:
    """A client of one service for the whole file."""
    with audit_service(tiny_bundle_dir, tmp_path_factory.mktemp("audits")) as client:
        yield client


def without_served(result: dict[str, Any]) -> dict[str, Any]:
    """A report but for the answers of the service, which the command line has none to ask."""
    [name] = [line["name"] for line in result["sanity"] if "service" in line["name"]]
    sanity = [line for line in result["sanity"] if line["name"] != name]
    return {**result, "sanity": sanity, "served": None}


def test_an_audit_over_http_equals_the_command_line(audits: Any, expected: dict[str, Any]) -> None:
    audit_id = audits.start(BODY)
    report = f"{AUDITS}/{audit_id}/report"
    early = audits.http.get(report)
    assert (early.status_code, early.json()["code"]) == (409, "audit_not_finished")
    partial = audits.wait_for(audit_id, lambda audit: audit["progress"]["done"] > 0)
    assert partial["result"]["identity"]["n"] == partial["progress"]["done"]

    result = audits.finished(audit_id)
    assert without_served(result) == without_served(expected)
    document = audits.http.get(report).json()
    assert document["result"] == result
    assert document["timing"]["wall_time_s"] > 0

    rows = [
        json.loads(line) for line in audits.http.get(f"{AUDITS}/{audit_id}/samples").iter_lines()
    ]
    assert sum(row["kind"] == "clean" for row in rows) == 45
    assert sum(row["kind"] == "attack" for row in rows) == 45 * len(result["lines"])
    assert audit_id in [audit["id"] for audit in audits.http.get(AUDITS).json()["audits"]]

    late = audits.http.delete(f"{AUDITS}/{audit_id}")
    assert (late.status_code, late.json()["code"]) == (409, "audit_ended")
    metrics = audits.http.get("/metrics").text
    assert 'fend_audits_total{state="succeeded"} 1.0' in metrics
    assert 'fend_audit_duration_seconds_count{state="succeeded"} 1.0' in metrics
    robust = result["worst_case_by_knowledge"]["white_box"]["accuracy"]
    gauges = [line for line in metrics.splitlines() if line.startswith("fend_robust_accuracy_r")]
    [gauge] = [line for line in gauges if "white_box" in line]
    assert float(gauge.rpartition(" ")[2]) == robust


def test_what_is_served_is_asked_about_the_very_pictures_of_the_audit(audits: Any) -> None:
    audit_id = audits.start({**BODY, "examples": 3})
    result = audits.finished(audit_id)
    rows = [
        json.loads(line) for line in audits.http.get(f"{AUDITS}/{audit_id}/samples").iter_lines()
    ]
    served = [row for row in rows if row["kind"] == "served"]
    lines = {(row["knowledge"], row["attack"]) for row in rows if row["kind"] == "attack"}
    assert {(row["knowledge"], row["attack"]) for row in served} == lines
    assert 3 * len(lines) <= len(served) <= 16 * len(lines)
    assert result["served"]["agreed"]["n"] == len(served)

    attacked = {
        (row["knowledge"], row["attack"], row["index"]): row["answer"]
        for row in rows if row["kind"] == "attack"
    }  # fmt: skip
    assert all(
        row["answer"] == attacked[row["knowledge"], row["attack"], row["index"]] for row in served
    )
    # Rounding to 8 bits may turn an image back; a pipeline that is not the served one would show.
    agreed = sum(row["answer"] == row["served_answer"] for row in served)
    assert agreed >= 0.9 * len(served)


def test_the_report_comes_in_the_form_that_is_asked_for(audits: Any) -> None:
    audit_id = audits.start({**BODY, "samples": 5})
    verdict = audits.finished(audit_id)["verdict"].split(":")[0]
    report = f"{AUDITS}/{audit_id}/report"
    for asked, media_type in [
        ({"headers": {"Accept": BROWSER}}, "text/html"),
        ({"headers": {"Accept": "text/markdown"}}, "text/markdown"),
        ({"headers": {"Accept": "*/*"}}, "application/json"),
        ({"params": {"format": "html"}}, "text/html"),
        ({"params": {"format": "json"}, "headers": {"Accept": BROWSER}}, "application/json"),
    ]:
        answer = audits.http.get(report, **asked)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith(media_type), asked
        assert verdict in answer.text
    page = audits.http.get(report, params={"format": "html"})
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert "data:image/png;base64," in page.text
    assert audits.http.get(report, params={"format": "pdf"}).status_code == 422


@pytest.mark.parametrize(
    ("change", "status", "code", "says"),
    [
        ({"attacks": [{"name": "magic"}]}, 422, "audit_spec_invalid", "'fgsm', 'bim', 'pgd'"),
        ({"preset": "slow"}, 422, "audit_spec_invalid", "paper, quick"),
        ({"threat": {"epsilon": 8}}, 422, "audit_spec_invalid", "8/255"),
        ({"epsilons": [2, 8]}, 422, "audit_spec_invalid", "epsilons.0"),
        ({"threat": {"norm": "l2", "epsilon": 30}}, 422, "audit_spec_invalid", "28, the distance"),
        ({"model": "nothing"}, 404, "model_unknown", "mnist"),
        ({"dataset": "mnist:test"}, 422, "dataset_missing", "fend data fetch mnist --data-dir /"),
        ({"dataset": "mnits"}, 422, "dataset_unknown", "rendered-digits"),
        ({"dataset": "npz:/etc/passwd"}, 422, "audit_spec_invalid", "may not read"),
        ({"dataset": "upload:0123456789abcdef"}, 404, "upload_unknown", "/v1/admin/datasets"),
        ({"dataset": "upload:../../etc"}, 404, "upload_unknown", "/v1/admin/datasets"),
        (
            {"knowledge": ["black_box"], "surrogate": "nobody"},
            422, "surrogate_missing", "nobody",
        ),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_at_once(audits, change, status, code, says):
    response = audits.http.post(AUDITS, json={**BODY, **change})
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert says in response.json()["detail"]


def test_admin_routes_need_the_token(audits: Any) -> None:
    for method, path in [
        ("POST", AUDITS), ("GET", AUDITS), ("GET", f"{AUDITS}/x"), ("GET", f"{AUDITS}/x/events"),
        ("GET", f"{AUDITS}/x/report"), ("GET", f"{AUDITS}/x/samples"), ("DELETE", f"{AUDITS}/x"),
        ("POST", "/v1/admin/datasets"), ("GET", "/v1/admin/datasets"),
        ("GET", "/v1/admin/datasets/x"), ("DELETE", "/v1/admin/datasets/x"),
    ]:  # fmt: skip
        # Without a key: wrong ones would lock this address out (see test_keys.py).
        response = httpx.request(method, audits.http.base_url.join(path), json={})
        assert response.status_code == 401, (method, path)
    wrong = audits.http.get(AUDITS, headers={"Authorization": "Bearer wrong"})
    assert wrong.status_code == 401
    for path in ("", "/events", "/report", "/samples"):
        assert audits.http.get(f"{AUDITS}/x{path}").json()["code"] == "audit_unknown"


def test_cancelling_ends_the_attack_and_frees_the_queue(audits: Any, until_dead: Any) -> None:
    slow, waiting = audits.start(SLOW), audits.start(SLOW)
    behind = audits.start({**BODY, "samples": 2})
    worker = audits.worker()
    assert audits.http.delete(f"{AUDITS}/{waiting}").json()["state"] == "cancelled"
    assert audits.http.delete(f"{AUDITS}/{slow}").json()["state"] == "cancelled"
    until_dead(worker)
    audits.finished(behind)
    for cancelled in (slow, waiting):
        again = audits.http.delete(f"{AUDITS}/{cancelled}")
        assert (again.status_code, again.json()["state"]) == (200, "cancelled")


def test_an_audit_whose_worker_dies_again_and_again_fails(audits: Any, until_dead: Any) -> None:
    audit_id = audits.start(SLOW)
    for _ in range(4):
        worker = audits.worker()
        os.kill(worker, signal.SIGKILL)
        until_dead(worker)
    audit = audits.wait_for(audit_id, lambda audit: audit["state"] != "running")
    assert (audit["state"], audit["error"]["code"]) == ("failed", "audit_worker_died")
    assert "signal 9" in audit["error"]["message"]
    assert audit["worker_deaths"] == 4
    assert "fend_audit_worker_deaths_total 4.0" in audits.http.get("/metrics").text
    report = audits.http.get(f"{AUDITS}/{audit_id}/report")
    assert report.json()["code"] == "audit_not_finished"


def test_one_key_is_one_audit(audits: Any) -> None:
    small = {**BODY, "samples": 2}
    first = audits.start(small, **{"Idempotency-Key": "k"})
    assert audits.start(small, **{"Idempotency-Key": "k"}) == first
    other = audits.http.post(AUDITS, json=BODY, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


def test_waiting_answers_with_the_finished_audit(audits: Any) -> None:
    asked = {**BODY, "samples": 2, "threat": {"epsilon": "51/510"}}
    done = audits.http.post(AUDITS, json=asked, params={"wait": 60})
    assert (done.status_code, done.json()["state"]) == (200, "succeeded")
    result = done.json()["result"]
    assert (result["identity"]["n"], result["threat"]["epsilon"]) == (2, 0.1)
    assert result["spec"]["preset"] == "quick"
    slow = audits.http.post(AUDITS, json=SLOW, params={"wait": 0.1})
    assert slow.status_code == 202
    audits.http.delete(slow.headers["Location"])


def test_old_audits_lose_their_rows_first_and_then_everything(
    audit_service, tiny_bundle_dir, tmp_path
):
    small = {**BODY, "samples": 2}
    with audit_service(tiny_bundle_dir, tmp_path, keep_audits=1, keep_audit_rows=0) as audits:
        old = audits.start(small)
        audits.finished(old)
        until(lambda: not audits.get(old)["rows_kept"])
        samples = audits.http.get(f"{AUDITS}/{old}/samples")
        assert (samples.status_code, samples.json()["code"]) == (410, "audit_rows_deleted")
        assert audits.http.get(f"{AUDITS}/{old}/report").status_code == 200
        assert [event["event"] for event in audits.events(old)][-1] == "end"

        new = audits.start(small)
        audits.finished(new)
        until(lambda: audits.http.get(f"{AUDITS}/{old}").status_code == 404)
    with audit_service(tiny_bundle_dir, tmp_path, keep_audits_days=0) as audits:
        [kept] = audits.http.get(AUDITS).json()["audits"]
        assert kept["id"] == new, "the last report of a model is never too old"
        assert audits.http.get("/v1/models/mnist").json()["last_audit"]["id"] == new


def test_a_worker_steps_back_and_an_audit_says_why_it_is_slow(
    audit_service, tiny_bundle_dir, tmp_path
):
    with audit_service(tiny_bundle_dir, tmp_path, worker_priority="low") as audits:
        audit_id = audits.start(SLOW)
        next_id = audits.start(SLOW)
        assert audits.get(next_id)["waiting_for"] == "audits"
        assert audits.get(next_id)["reason"] == "queued behind another audit"
        worker = audits.worker()
        until(lambda: os.sched_getscheduler(worker) == os.SCHED_BATCH)
        assert os.getpriority(os.PRIO_PROCESS, worker) == 1
        assert audits.get(audit_id)["waiting_for"] == "inputs"
        cores = {min(os.sched_getaffinity(0))}
        with ExitStack() as stack:
            for _ in range(3):
                loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
                stack.callback(loop.wait)
                stack.callback(loop.kill)
                os.sched_setaffinity(loop.pid, cores)
            os.sched_setaffinity(worker, cores)
            slow = audits.wait_for(audit_id, lambda audit: audit["waiting_for"] == "processor")
        assert "FEND_WORKER_PRIORITY" in slow["reason"]
        for started in (next_id, audit_id):
            ended = audits.http.delete(f"{AUDITS}/{started}").json()
            assert (ended["waiting_for"], ended["reason"]) == (None, None)
