"""The deployment as it runs: called by run.sh, while its containers are up. Order matters.

Every command is the documentation's own, word for word but for the ports.
"""

import json
import os
import re
import subprocess
import sys
import tarfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CPU_IMAGE_LIMIT_BYTES = 1_500_000_000
TIMEOUT_S = 600
AUDITS = "/v1/admin/audits"


# ---- the machine around it


def run(*command: str, **options: Any) -> str:
    """What a command prints; fails with all it said."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def compose(*arguments: str) -> str:
    return run("docker", "compose", *arguments)


def inside(script: str) -> str:
    """What a shell in the running service prints."""
    return compose("exec", "-T", "service", "sh", "-c", script).strip()


def container(service: str = "service") -> Any:
    return json.loads(run("docker", "inspect", compose("ps", "-q", service).strip()))[0]


def image_of(service: str) -> str:
    return str(configuration()["services"][service]["image"])


def configuration() -> Any:
    return json.loads(compose("config", "--format", "json"))


def token() -> str:
    return Path(configuration()["secrets"]["admin_token"]["file"]).read_text()


def url(service: str, port: int) -> str:
    return f"http://{compose('port', service, str(port)).strip()}"


def fetch(address: str, *, admin: bool = False, body: Any = None) -> str:
    request = urllib.request.Request(address)
    if admin:
        request.add_header("Authorization", f"Bearer {token()}")
    if body is not None:
        request.add_header("Content-Type", "application/json")
        request.data = json.dumps(body).encode()
    with urllib.request.urlopen(request, timeout=60) as response:
        return str(response.read().decode())


def audits() -> list[Any]:
    return json.loads(fetch(url("service", 8000) + AUDITS, admin=True))["audits"]


def audit(audit_id: str) -> Any:
    return json.loads(fetch(f"{url('service', 8000)}{AUDITS}/{audit_id}", admin=True))


def prometheus(path: str, **query: str) -> Any:
    address = f"{url('prometheus', 9090)}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    return json.loads(fetch(address))["data"]


def until(what: Callable[[], Any]) -> Any:
    """What `what` gives, once that is something; it may fail until then."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while True:
        failure: Exception | None = None
        try:
            if value := what():
                return value
        except (OSError, AssertionError) as error:
            failure = error
        assert time.monotonic() < deadline_s, failure or "it did not happen in time"
        time.sleep(0.5)


def ended(audit_id: str) -> Any:
    """The audit, once it has."""

    def look() -> Any:
        found = audit(audit_id)
        return found if found["state"] not in ("queued", "running") else None

    return until(look)


# ---- the documentation


def commands(page: str, heading: str) -> list[str]:
    """Each command of the shell blocks below a heading, with the ports of this deployment."""
    text = (ROOT / page).read_text()
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert section, f"{page} has no heading {heading!r}"
    blocks = re.findall(r"^```sh\n(.*?)^```", section[1], re.M | re.S)
    assert blocks, f"no command below {heading!r} in {page}"
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    ported = [line.replace("http://127.0.0.1:8000", url("service", 8000)) for line in lines]
    return [line for line in ported if line]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a reader of the documentation could sit."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "docs").symlink_to(ROOT / "docs")
    (folder / "secrets").mkdir()
    (folder / "secrets/admin_token").write_text(token())
    return folder


def say(command: str, desk: Path) -> str:
    """Run a command of the documentation."""
    compose_file = str(ROOT / "docker-compose.yml")
    environment = {**os.environ, "TOKEN": token(), "COMPOSE_FILE": compose_file}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=desk, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


# ---- the image


def layer_members(image: str) -> Iterator[tuple[str, bytes]]:
    """Every file of every layer of an image, and its configuration."""
    with subprocess.Popen(["docker", "save", image], stdout=subprocess.PIPE) as saving:
        with tarfile.open(fileobj=saving.stdout, mode="r|*") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is None:
                    continue
                try:
                    with tarfile.open(fileobj=file, mode="r|*") as layer:
                        for inner in layer:
                            content = layer.extractfile(inner) if inner.isfile() else None
                            yield inner.name, content.read() if content else b""
                except tarfile.ReadError:  # no layer: the manifest or the configuration
                    continue
        assert saving.wait() == 0


def test_no_layer_holds_a_secret() -> None:
    secret = token().encode()
    names = []
    for name, content in layer_members(image_of("service")):
        names.append(name)
        assert secret not in content, name
    assert "opt/fend/healthcheck.py" in names, "the layers were not read"
    mine = [name for name in names if name.startswith(("app/", "opt/fend/"))]
    hidden = [name for name in mine if re.search(r"(^|/)(\.env|\.git|secrets)(/|$)", name)]
    assert hidden == []


def test_nothing_that_docker_shows_holds_the_secret() -> None:
    shown = json.dumps(container())
    shown += run("docker", "image", "inspect", image_of("service"))
    shown += run("docker", "history", "--no-trunc", image_of("service"))
    shown += compose("logs", "service") + inside("cat /proc/1/environ | tr '\\0' '\\n'")
    assert token() not in shown
    assert "/run/secrets/admin_token" in shown


def test_image_has_what_it_needs_and_no_more() -> None:
    tools = "for tool in gcc cc g++ c++ make ld as; do command -v $tool || true; done"
    assert inside(tools) == ""
    find = "from importlib.util import find_spec; print([n for n in ('torchvision', 'tensorboard',"
    assert inside(f"python -c \"{find} 'pytest') if find_spec(n)])\"") == "[]"
    labels = json.loads(run("docker", "image", "inspect", image_of("service")))[0]["Config"][
        "Labels"
    ]
    assert labels["org.opencontainers.image.title"] == "fend"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def test_cpu_image_is_small(capsys: pytest.CaptureFixture[str]) -> None:
    size_bytes = json.loads(run("docker", "image", "inspect", image_of("service")))[0]["Size"]
    with capsys.disabled():
        sys.stdout.write(f"\nimage size: {size_bytes / 1e6:.0f} MB\n")
    if inside("python -c 'import torch; print(torch.version.cuda)'") == "None":
        assert size_bytes < CPU_IMAGE_LIMIT_BYTES


# ---- the container


def test_container_is_confined() -> None:
    host = container()["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert min(host["NanoCpus"], host["Memory"], host["PidsLimit"]) > 0
    assert {binding["HostIp"] for binding in host["PortBindings"]["8000/tcp"]} == {"127.0.0.1"}


def test_process_is_nobody_special() -> None:
    assert inside("id -u") == "10001"
    assert inside("cat /proc/1/comm") == "tini"
    assert "CapEff:\t0000000000000000" in inside("cat /proc/1/status")
    for place in ("/", "/app", "/app/models", "/opt/venv", "/etc"):
        assert inside(f"touch {place}/x 2>/dev/null && echo written || true") == "", place
    for place in ("/tmp", "/var/lib/fend/state", "/var/lib/fend/data"):
        assert inside(f"touch {place}/x && rm {place}/x && echo written") == "written", place


def test_without_a_token_nothing_starts_and_compose_says_how_to_make_one() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "FEND_ADMIN_TOKEN_PATH"}
    done = subprocess.run(
        ["docker", "compose", "--env-file", "/dev/null", "config", "-q"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "Run docker/admin-token.sh" in done.stderr


# ---- the README, word for word


def test_readme_asks_and_is_answered(desk: Path) -> None:
    classify, raw, denoise, model = commands("README.md", "Ask it")
    answer = json.loads(say(classify, desk))
    assert (answer["label"], answer["undefended"]["label"]) == ("7", "7")
    assert json.loads(say(raw, desk))["label"] == "3"
    say(denoise, desk)
    assert (desk / "denoised.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(say(model, desk))["name"] == "mnist"


def test_readme_audit_from_post_to_report(desk: Path) -> None:
    [post, look] = commands("README.md", "Let it attack itself")
    accepted = json.loads(say(post, desk))
    assert accepted["id"] in [listed["id"] for listed in json.loads(say(look, desk))["audits"]]
    finished = ended(accepted["id"])
    assert finished["state"] == "succeeded", finished["error"]
    place = f"{AUDITS}/ID/report?format=markdown"
    assert place in (ROOT / "README.md").read_text()
    report = fetch(url("service", 8000) + place.replace("ID", accepted["id"]), admin=True)
    assert finished["result"]["verdict"] in report


# ---- Prometheus


def test_prometheus_reaches_the_service() -> None:
    def target() -> Any:
        [found] = prometheus("targets")["activeTargets"]
        return found if found["health"] == "up" else None

    assert until(target)["labels"] == {"instance": "service:8000", "job": "fend"}


def test_prometheus_has_the_robust_accuracy_of_the_audit() -> None:
    query = 'fend_robust_accuracy_ratio{model="mnist",knowledge="white_box"}'
    [series] = until(lambda: prometheus("query", query=query)["result"])
    assert series["metric"]["dataset"] == "handwritten-digits:test"
    assert series["metric"]["epsilon"] == "0.2"
    newest = audit(audits()[0]["id"])["result"]["worst_case_by_knowledge"]["white_box"]
    assert float(series["value"][1]) == pytest.approx(newest["accuracy"])


def test_prometheus_evaluates_every_rule_and_nothing_is_wrong() -> None:
    def rules() -> Any:
        found = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else None

    found = until(rules)
    assert len(found) > 10
    assert [rule for rule in found if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in found if rule.get("state") == "firing"] == []


def test_prometheus_answers_every_query_of_the_dashboard() -> None:
    dashboard = json.loads((ROOT / "docker/grafana/dashboards/fend.json").read_text())
    panels = [panel for panel in dashboard["panels"] if "targets" in panel]
    assert len(panels) > 10
    for panel in panels:
        for target in panel["targets"]:
            query = re.sub(r"\$__\w*interval|\$__range", "5m", target["expr"])
            prometheus("query", query=query.replace("$model", ".*"))


def test_promtool_of_the_same_prometheus_accepts_the_rules() -> None:
    in_place = "/etc/prometheus/prometheus.yml"
    compose("exec", "-T", "prometheus", "promtool", "check", "config", in_place)
    mounts = [
        f"--volume={ROOT / folder}:/src/{folder}:ro"
        for folder in ("docker/prometheus", "tests/compose")
    ]
    promtool = ("docker", "run", "--rm", *mounts, "--entrypoint=promtool", image_of("prometheus"))
    assert "SUCCESS" in run(*promtool, "test", "rules", "/src/tests/compose/alerts.test.yml")


def test_grafana_shows_the_dashboard() -> None:
    if not compose("ps", "-q", "grafana").strip():
        pytest.skip("grafana was not started")
    found = json.loads(fetch(f"{url('grafana', 3000)}/api/dashboards/uid/fend"))
    assert found["meta"]["provisioned"]


# ---- what an audit outlives


def test_kill_9_loses_no_audit() -> None:
    before = audits()
    spec = {"preset": "quick", "model": "mnist", "dataset": "handwritten-digits", "samples": 75,
            "knowledge": ["white_box"]}  # fmt: skip
    audit_id = json.loads(fetch(url("service", 8000) + AUDITS, admin=True, body=spec))["id"]
    until(lambda: audit(audit_id)["progress"]["done"] > 0)
    restarts = container()["RestartCount"]
    inside("kill -9 $(cat /proc/1/task/1/children)")
    until(lambda: container()["RestartCount"] == restarts + 1)
    assert until(lambda: audit(audit_id))["progress"]["done"] > 0, "it began from nothing"
    finished = ended(audit_id)
    assert finished["state"] == "succeeded", finished["error"]
    assert finished["result"]["identity"]["n"] == finished["progress"]["total"]
    assert audits()[1:] == before


def test_down_and_up_keeps_the_audits(capsys: pytest.CaptureFixture[str]) -> None:
    before = audits()
    running = compose("ps", "--services").split()
    compose("down")
    started_s = time.monotonic()
    compose("up", "-d", "--no-build", "--wait", "service")
    cold_start_s = time.monotonic() - started_s
    compose("up", "-d", "--no-build", "--wait", *running)
    assert audits() == before
    with capsys.disabled():
        sys.stdout.write(f"\ncold start: {cold_start_s:.1f} s\n")


def test_a_backup_restores_the_audits(desk: Path) -> None:
    before = audits()
    backup, restore = "\n".join(commands("docs/deploying.md", "Backup")).split("# restore")
    say(backup, desk)
    compose("down", "-v")
    compose("up", "-d", "--no-build", "--wait", "service")
    assert audits() == []
    say(restore, desk)
    assert audits() == before
