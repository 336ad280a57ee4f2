"""`fend serve --workers 2`: two processes that look like one, also when one of them dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fend.bundles import load_bundle, save_bundle
from service.runtime.metrics import Metrics
from service.workers.supervisor import MAX_FIRST_DEATHS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

PNG_TYPE = {"Content-Type": "image/png"}
AUDITS = "/v1/admin/audits"
BODY = {
    "model": "mnist",
    "dataset": "rendered-digits",
    "samples": 24,
    "shard_size": 4,
    "sanity_samples": 6,
    "examples": 2,
    "attacks": [{"name": "fgsm"}, {"name": "pgd", "steps": 60, "early_stop": False}],
}
Digits = list[tuple[bytes, str]]


class Group:
    """A service of two workers, and a way to ask each of them."""

    def __init__(self, server: Any) -> None:
        self.base_url = server.base_url
        self.process = server.process
        self._server = server
        self._written: list[dict[str, Any]] = []
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        self._first_pids = sorted(map(int, children.read_text().split()))

    def pids(self) -> list[int]:
        """The workers' processes, by index."""
        pids = list(self._first_pids)
        for line in self.log():
            if line["event"] == "worker ready":
                pids[line["worker"]] = line["process"]
        return pids

    def log(self) -> list[dict[str, Any]]:
        """What it has written since it announced itself."""
        lines = self._server.output().splitlines()
        self._written += [json.loads(line) for line in lines if line[:1] == "{"]
        return self._written

    def connection(self) -> httpx.Client:
        """To whichever worker accepts it first."""
        return httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {self._server.token}"},
            limits=httpx.Limits(max_connections=1, keepalive_expiry=None),
            timeout=60,
        )

    @contextmanager
    def client(self, worker: int) -> Iterator[httpx.Client]:
        """Connected to this worker."""
        other = self.pids()[1 - worker]
        with self.connection() as client:
            os.kill(other, signal.SIGSTOP)
            try:
                client.get("/livez").raise_for_status()
            finally:
                os.kill(other, signal.SIGCONT)
            yield client


@pytest.fixture(scope="module")
def run_group(
    run_server: Callable[..., AbstractContextManager[Any]],
) -> Callable[..., AbstractContextManager[Group]]:
    """`with run_group(models_dir, state_dir, **settings) as group:`"""

    @contextmanager
    def run(models_dir: Path, state_dir: Path, **settings: object) -> Iterator[Group]:
        chosen = {"workers": 2, "worker_priority": "normal", **settings}
        with run_server(models_dir, state_dir, **chosen) as server:
            yield Group(server)

    return run


@pytest.fixture(scope="module")
def group(
    run_group: Any, tiny_bundle_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Group]:
    """For tests that end nothing."""
    with run_group(tiny_bundle_dir, tmp_path_factory.mktemp("group")) as running:
        yield running


def test_workers_answer_alike_and_count_together(group: Group, digit_pngs: Digits) -> None:
    with group.client(0) as first, group.client(1) as second:
        for png, label in digit_pngs[:16]:
            one, other = classify(first, png), classify(second, png)
            assert one.json() == other.json()
            assert one.json()["label"] == label
        for client in (first, second):
            metrics = samples(client.get("/metrics").text)
            assert total(metrics, "fend_predictions_total") == 32
            assert total(metrics, "fend_batch_size_sum") == 32
            assert total(metrics, "fend_model_info") == 1
            assert total(metrics, "fend_queue_depth") == 0


def test_metrics_are_those_of_one_process(group: Group) -> None:
    alone = {
        family.name: family.documentation
        for family in text_string_to_metric_families(Metrics().render().decode())
    }
    text = httpx.get(f"{group.base_url}/metrics").text
    together = {
        family.name: family.documentation for family in text_string_to_metric_families(text)
    }
    assert together.keys() - alone.keys() == set()
    ours = {name for name in together if name.startswith("fend_")}
    assert len(ours) > 10
    assert {name: together[name] for name in ours} == {name: alone[name] for name in ours}
    assert {"process_cpu_seconds", "process_resident_memory_bytes"} <= together.keys()


def test_an_audit_is_started_followed_and_read_through_any_worker(group: Group) -> None:
    with group.client(0) as leader, group.client(1) as other:
        key = {"Idempotency-Key": "once"}
        posted = other.post(AUDITS, json=BODY, headers=key)
        assert posted.status_code == 202, posted.text
        path = posted.headers["Location"]
        assert leader.post(AUDITS, json=BODY, headers=key).json()["id"] == posted.json()["id"]
        events = other.get(f"{path}/events", timeout=120).text
        assert events.count("event: progress") == 6
        assert "event: end" in events
        audits = [client.get(path).json() for client in (leader, other)]
        assert audits[0] == audits[1]
        assert audits[0]["state"] == "succeeded"
        assert audits[0]["result"]["served"]["agreed"]["n"] > 0
        reports = [client.get(f"{path}/report?format=html") for client in (leader, other)]
        assert reports[0].text == reports[1].text
        assert reports[1].headers["Content-Security-Policy"]
        assert other.get("/v1/models/mnist").json()["last_audit"]["id"] == posted.json()["id"]
        endless = {**BODY, "samples": 400}
        path = other.post(AUDITS, json=endless).headers["Location"]
        assert other.delete(path).json()["state"] == "cancelled"
        assert leader.get(path).json()["state"] == "cancelled"
        for client in (leader, other):
            counted = samples(client.get("/metrics").text)
            assert counted['fend_audits_total{state="succeeded"}'] == 1
            assert any(name.startswith("fend_robust_accuracy_ratio{") for name in counted)


def test_what_the_leader_refuses_the_others_refuse(group: Group) -> None:
    with group.client(1) as other:
        refused = other.get(AUDITS, headers={"Authorization": "Bearer wrong"})
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        unknown = other.get(f"{AUDITS}/nobody", headers={"X-Request-ID": "mine"})
        assert (unknown.status_code, unknown.json()["request_id"]) == (404, "mine")
        assert unknown.headers["Cache-Control"] == "no-store"
        large = other.post(AUDITS, content=b" " * (11 * 1024 * 1024))
        assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
        broken = other.post("/v1/admin/datasets", content=b"no zip" * 1000, headers={
            "Content-Type": "application/zip"
        })  # fmt: skip
        assert broken.status_code == 422
        wait_for(lambda: any(line.get("request_id") == "mine" for line in group.log()))
        lines = [line for line in group.log() if line.get("request_id") == "mine"]
        assert [(line["route"], line["worker"]) for line in lines] == [
            (f"{AUDITS}/{{audit_id}}", 0)
        ]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_worker_is_missed_and_replaced_and_the_other_serves_on(
    victim: int, run_group: Any, tiny_bundle_dir: Path, tmp_path: Path, digit_pngs: Digits,
    until_dead: Any,
) -> None:  # fmt: skip
    with run_group(tiny_bundle_dir, tmp_path) as group, group.client(1 - victim) as survivor:
        dying = group.pids()[victim]
        answers: list[httpx.Response] = []
        done = threading.Event()

        def load() -> None:
            while not done.is_set():
                answers.append(classify(survivor, digit_pngs[0][0]))

        loader = threading.Thread(target=load)
        loader.start()
        try:
            wait_for(lambda: len(answers) > 20)
            counted = predictions(group)
            os.kill(dying, signal.SIGKILL)
            until_dead(dying)
            missed = httpx.get(f"{group.base_url}/readyz")
            assert (missed.status_code, missed.json()["code"]) == (503, "not_ready")
            assert f"worker {victim}" in missed.json()["detail"]
            assert predictions(group) >= counted, "what the dead one counted is kept"
            wait_for(lambda: httpx.get(f"{group.base_url}/readyz").status_code == 200)
        finally:
            done.set()
            loader.join()
        assert {answer.status_code for answer in answers} == {200}
        wait_for(lambda: group.pids()[victim] != dying)
        with group.client(victim) as replaced:
            assert classify(replaced, digit_pngs[0][0]).json() == answers[0].json()
            metrics = samples(replaced.get("/metrics").text)
            assert metrics["fend_worker_deaths_total"] == 1
            assert total(metrics, "fend_model_info") == 1


def test_an_audit_outlives_the_worker_that_keeps_it(
    run_group: Any, tiny_bundle_dir: Path, tmp_path: Path, until_dead: Any
) -> None:
    with run_group(tiny_bundle_dir, tmp_path) as group, group.client(1) as other:
        path = other.post(AUDITS, json=BODY).headers["Location"]
        wait_for(lambda: other.get(path).json()["progress"]["done"] > 0)
        leader = group.pids()[0]
        os.kill(leader, signal.SIGKILL)
        until_dead(leader)
        # Asked while nobody keeps it: the answer waits for the replacement.
        waited = other.get(path)
        assert waited.status_code == 200, waited.text
        wait_for(lambda: other.get(path).json()["state"] == "succeeded")
        assert other.get(path).json()["result"]["identity"]["n"] == 24


def test_a_chosen_version_reaches_every_worker(
    run_group: Any, tiny_bundle_dir: Path, tmp_path: Path, digit_pngs: Digits, until_dead: Any
) -> None:
    models_dir = tmp_path / "models"
    old, new = two_versions(tiny_bundle_dir, models_dir)
    with (
        run_group(models_dir, tmp_path / "state") as group,
        group.client(0) as leader,
        group.client(1) as other,
    ):

        def served() -> list[str]:
            png = digit_pngs[0][0]
            found = [classify(client, png).json() for client in (leader, other)]
            return [answer["model"]["version"] for answer in found]

        assert served() == [old, old]
        path = "/v1/admin/models/mnist"
        activated = other.post(f"{path}/activate", json={"version": new})
        assert activated.json()["active"] == new, activated.text
        assert served() == [new, new]
        metrics = samples(other.get("/metrics").text)
        info = [name for name in metrics if name.startswith("fend_model_info{")]
        assert len(info) == 1
        assert new in info[0]
        assert other.post(f"{path}/rollback").json()["active"] == old
        assert served() == [old, old]
        assert leader.post(f"{path}/activate", json={"version": new}).status_code == 200
        dying = group.pids()[1]
        os.kill(dying, signal.SIGKILL)
        until_dead(dying)
        # With one of them just starting: it reads the choice itself.
        rolled_back = leader.post(f"{path}/rollback")
        assert rolled_back.json().get("active") == old, rolled_back.text
        wait_for(lambda: httpx.get(f"{group.base_url}/readyz").status_code == 200)
        wait_for(lambda: group.pids()[1] != dying)
        with group.client(1) as replaced:
            answer = classify(replaced, digit_pngs[0][0]).json()
            assert answer["model"]["version"] == old
            assert replaced.post("/v2/repository/models/mnist/unload").status_code == 200
            for client in (leader, replaced):
                assert classify(client, digit_pngs[0][0]).json()["code"] == "model_unloaded"


def test_sigterm_drains_all_and_leaves_nothing(
    run_group: Any, tiny_bundle_dir: Path, tmp_path: Path, digit_pngs: Digits
) -> None:
    with (
        run_group(tiny_bundle_dir, tmp_path, drain_delay_s=1) as group,
        group.client(0) as first,
        group.client(1) as second,
    ):
        pids = group.pids()
        group.process.send_signal(signal.SIGTERM)
        wait_for(lambda: httpx.get(f"{group.base_url}/readyz").json().get("code") == "draining")
        for client in (first, second):  # still served: this is what the delay is for
            assert classify(client, digit_pngs[0][0]).json()["label"] == digit_pngs[0][1]
        assert group.process.wait(60) == 0
        stopped = [line for line in group.log() if line["event"] == "stopped"]
        assert sorted(line["worker"] for line in stopped) == [0, 1]
        assert "unexpected error" not in {line["event"] for line in group.log()}
        assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_worker_that_is_asked_to_end_finishes_and_is_replaced(
    run_group: Any, tiny_bundle_dir: Path, tmp_path: Path, digit_pngs: Digits, until_dead: Any
) -> None:
    with run_group(tiny_bundle_dir, tmp_path) as group:
        ending = group.pids()[1]
        os.kill(ending, signal.SIGTERM)
        deadline_s = time.monotonic() + 60
        while Path(f"/proc/{ending}/stat").exists() and time.monotonic() < deadline_s:
            with group.connection() as client:  # the other accepts for both
                assert classify(client, digit_pngs[0][0]).status_code == 200
        until_dead(ending)
        wait_for(lambda: httpx.get(f"{group.base_url}/readyz").status_code == 200)
        metrics = samples(httpx.get(f"{group.base_url}/metrics").text)
        assert metrics["fend_worker_deaths_total"] == 0


def test_workers_end_with_their_supervisor(
    run_group: Any, tiny_bundle_dir: Path, tmp_path: Path, until_dead: Any
) -> None:
    with run_group(tiny_bundle_dir, tmp_path) as group:
        pids = group.pids()
        group.process.kill()
        for pid in pids:
            until_dead(pid)


def test_workers_that_never_start_end_the_service(tiny_bundle_dir: Path, tmp_path: Path) -> None:
    # As when memory runs out: each worker is killed before it has said a word.
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if b'service.workers.main' in open('/proc/self/cmdline', 'rb').read():\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path.cwd())])
    done = subprocess.run(
        [
            *(sys.executable, "-m", "service", "--workers", "2", "--port", "0"),
            *("--models-dir", str(tiny_bundle_dir), "--state-dir", str(tmp_path)),
        ],
        env={name: v for name, v in os.environ.items() if name[:5] != "FEND_"}
        | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    [line] = done.stderr.strip().splitlines()
    assert f"died {MAX_FIRST_DEATHS} times" in line
    assert "signal 9" in line
    assert done.returncode == 9


def two_versions(tiny_bundle_dir: Path, models_dir: Path) -> tuple[str, str]:
    """The tiny bundle, and beside it another version of it; their digests."""
    shutil.copytree(tiny_bundle_dir / "mnist", models_dir / "mnist")
    bundle = load_bundle(models_dir / "mnist")
    content = bundle.manifest.content
    for parameter in bundle.defence.classifier.parameters():
        parameter.data.mul_(1.01)
    folder = models_dir / "mnist" / "versions" / "new"
    save_bundle(
        folder,
        name="mnist",
        input_spec=content.input,
        labels=content.labels,
        denoiser=("residual-unet", {"width": 4}, bundle.defence.denoiser),
        classifier=("paper-lenet", {}, bundle.defence.classifier),
        suspicion=content.suspicion,
        about={},
        card="# Another\n",
    )
    return bundle.manifest.version, load_bundle(folder).manifest.version


def classify(client: httpx.Client, png: bytes) -> httpx.Response:
    return client.post("/v1/classify", content=png, headers=PNG_TYPE)


def samples(text: str) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.splitlines() if line[:1] != "#"]
    return {name: float(value) for name, _, value in lines}


def total(metrics: dict[str, float], name: str) -> float:
    return sum(value for key, value in metrics.items() if key.partition("{")[0] == name)


def predictions(group: Group) -> float:
    return total(samples(httpx.get(f"{group.base_url}/metrics").text), "fend_predictions_total")


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)
