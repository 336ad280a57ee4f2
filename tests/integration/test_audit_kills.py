"""kill -9 of the service, of its worker, of both, and a torn last write: the report is the same.

The moments are drawn, but always the same ones; FEND_TEST_KILLS draws more of them.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

AUDITS = "/v1/admin/audits"
KILLS = int(os.environ.get("FEND_TEST_KILLS", "2"))
SHARDS = 6
BODY = {
    "model": "mnist",
    "dataset": "rendered-digits",
    "samples": 4 * SHARDS,
    "shard_size": 4,
    "sanity_samples": 6,
    "examples": 2,
    "seed": 5,
    "threat": {"norm": "linf", "epsilon": 0.1},
    "attacks": [{"name": "fgsm"}, {"name": "pgd", "steps": 60, "early_stop": False}],
}


def raw_rows(audits: Any, audit_id: str) -> list[str]:
    """In their order, each as its bytes."""
    return audits.http.get(f"{AUDITS}/{audit_id}/samples").text.splitlines()


@pytest.fixture(scope="module")
def undisturbed(
    audit_service, tiny_bundle_dir, tmp_path_factory
) -> tuple[dict[str, Any], list[str]]:
    """The report and the rows of `BODY` where nothing dies."""
    with audit_service(tiny_bundle_dir, tmp_path_factory.mktemp("undisturbed")) as audits:
        audit_id = audits.start(BODY)
        result = audits.finished(audit_id)
        assert result["served"]["agreed"]["n"] > 0
        return result, raw_rows(audits, audit_id)


def moments(seed: str) -> list[tuple[int, float]]:
    """Finished shards to wait for, and seconds after that; in order."""
    draw = random.Random(seed)
    # At most two a shard: an audit gives up after four deaths on the same one.
    shards = sorted(draw.sample([*range(SHARDS), *range(SHARDS)], k=KILLS))
    shards[0] = 0  # once before anything is finished
    return [(count, draw.uniform(0, 0.3)) for count in shards]


def wait_until_moment(audits: Any, audit_id: str, moment: tuple[int, float]) -> None:
    shards, delay_s = moment
    audits.wait_for(
        audit_id,
        lambda audit: audit["progress"]["done"] >= 4 * shards and audit["state"] != "queued",
    )
    time.sleep(delay_s)


def test_a_worker_that_is_killed_changes_nothing(
    audit_service, tiny_bundle_dir, tmp_path, undisturbed, until_dead
):
    with audit_service(tiny_bundle_dir, tmp_path) as audits:
        audit_id = audits.start(BODY)
        for moment in moments("worker"):
            wait_until_moment(audits, audit_id, moment)
            for worker in audits.workers():
                os.kill(worker, signal.SIGKILL)
                until_dead(worker)
        result = audits.finished(audit_id)
        assert (result, raw_rows(audits, audit_id)) == undisturbed
        # One that dies when it has said that it is done is no loss.
        assert 1 <= audits.get(audit_id)["worker_deaths"] <= KILLS


@pytest.mark.parametrize("victim", ["service", "both and the last write"])
def test_a_service_that_is_killed_loses_no_accepted_audit(
    victim: str, audit_service: Any, tiny_bundle_dir: Path, tmp_path: Path, undisturbed: Any,
    until_dead: Any,
) -> None:  # fmt: skip
    audit_id = queued = None
    done = 0
    for moment in moments(victim):
        with audit_service(tiny_bundle_dir, tmp_path) as audits:
            audit_id = audit_id or audits.start(BODY)
            queued = queued or audits.start({**BODY, "samples": 2})
            assert audits.get(audit_id)["progress"]["done"] >= done, "finished shards are kept"
            if victim == "both and the last write":  # not that of what it has accepted
                moment = (max(1, moment[0]), moment[1])
            wait_until_moment(audits, audit_id, moment)
            done = audits.get(audit_id)["progress"]["done"]
            workers = audits.workers()
            os.kill(audits.pid, signal.SIGKILL)
            for worker in workers:
                if victim != "service":
                    os.kill(worker, signal.SIGKILL)
                until_dead(worker)  # by itself, where it was not killed
        if victim == "both and the last write":
            tear_last_write(tmp_path / "audits.sqlite-wal")
            done = max(0, done - 4)
    with audit_service(tiny_bundle_dir, tmp_path) as audits:
        result = audits.finished(audit_id)
        assert (result, raw_rows(audits, audit_id)) == undisturbed
        assert audits.get(audit_id)["worker_deaths"] == 0, "it was the service that died"
        assert audits.finished(queued)["identity"]["n"] == 2


def tear_last_write(log: Path) -> None:
    """As if power had failed while the disk wrote the last page."""
    size = log.stat().st_size
    assert size > 0
    os.truncate(log, size - 1000)
