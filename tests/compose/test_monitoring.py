"""Prometheus and Grafana ask for what the service really shows: every rule and every panel."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from service.app import create_app
from service.settings import Settings

ROOT = Path(__file__).parents[2]
RULES = ["recording.yml", "alerts.yml"]
TARGET_LABELS = {"job", "instance"}
"""Prometheus adds these to everything that it scrapes."""


def read_yaml(path: str) -> Any:
    return YAML(typ="safe").load(ROOT / path)


def dashboard() -> Any:
    return json.loads((ROOT / "docker/grafana/dashboards/fend.json").read_text())


def panels() -> list[Any]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def rules() -> list[Any]:
    files = [read_yaml(f"docker/prometheus/{name}") for name in RULES]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


# ---- queries


def parse(query: str) -> Any:
    """A query as Prometheus gets it: Grafana has put its variables in."""
    return promql_parser.parse(
        query.replace("$__rate_interval", "1m").replace('"$model"', '"mnist|tiny"')
    )


def nodes(query: str, kind: type) -> list[Any]:
    found: list[Any] = []
    promql_parser.walk(
        parse(query), pre_visit=lambda node: found.append(node) if isinstance(node, kind) else None
    )
    return found


def selectors(query: str) -> list[Any]:
    return nodes(query, promql_parser.VectorSelector)


def grouped_by(query: str) -> list[set[str]]:
    modifiers = [node.modifier for node in nodes(query, promql_parser.AggregateExpr)]
    return [set(modifier.labels) for modifier in modifiers if modifier is not None]


def queries() -> list[Any]:
    rule_queries = [
        pytest.param(rule["expr"], "", id=rule.get("record") or rule["alert"]) for rule in rules()
    ]
    return rule_queries + [
        pytest.param(target["expr"], target["legendFormat"], id=f"{panel['title']} {number}")
        for panel in panels()
        for number, target in enumerate(panel["targets"])
    ]


# ---- what the service shows after a day's work


Series = dict[str, dict[str, set[str]]]
"""Name of a series -> its labels -> the values of each."""


@pytest.fixture(scope="module")
def shown(app_settings, serve_app, digit_pngs, tmp_path_factory) -> Series:
    """/metrics after answers, refusals, a full queue, a refused bundle and an audit."""
    models_dir = tmp_path_factory.mktemp("monitored") / "models"
    shutil.copytree(app_settings.models_dir, models_dir)
    shutil.copytree(models_dir / "mnist", models_dir / "broken")
    state_dir = models_dir.parent / "state"
    changes = {
        "models_dir": models_dir,
        "state_dir": state_dir,
        "queue_size": 1,
        "worker_priority": "normal",  # else a busy machine leaves the audit no time
    }
    with serve_app(create_app(app_settings.model_copy(update=changes))) as client:
        for picture, _ in digit_pngs[:5]:
            classify(client, picture)
        client.post("/v1/classify", content=b"not a picture", headers={"Content-Type": "image/png"})
        client.post("/v1/denoise", content=picture, headers={"Content-Type": "image/png"})
        fill_the_queue(client, picture)
        token = app_settings.admin_token
        audit = client.post(
            "/v1/admin/audits",
            params={"wait": 60},
            json={"model": "mnist", "dataset": "rendered-digits", "samples": 5,
                  "knowledge": ["white_box"], "attacks": [{"name": "fgsm"}]},
            headers={"Authorization": f"Bearer {token.get_secret_value()}"},
            timeout=70,
        )  # fmt: skip
        assert audit.json()["state"] == "succeeded", audit.text
        return series_of(client.get("/metrics").text)


def classify(client: httpx.Client, picture: bytes) -> int:
    headers = {"Content-Type": "image/png"}
    return client.post("/v1/classify", content=picture, headers=headers).status_code


def fill_the_queue(client: httpx.Client, picture: bytes) -> None:
    """More at once than the queue holds, until one is refused."""
    with ThreadPoolExecutor(8) as callers:
        for _ in range(100):
            if 429 in callers.map(lambda _: classify(client, picture), range(16)):
                return
    raise AssertionError("the queue never filled")


def series_of(text: str) -> Series:
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def with_recorded(shown: Series) -> dict[str, set[str]]:
    """Each series that a query may name, with its labels: scraped, recorded, Prometheus' own."""
    known = {name: {*labels, *TARGET_LABELS} for name, labels in shown.items()}
    known["up"] = TARGET_LABELS
    known["ALERTS"] = {"alertname", "alertstate", "severity"}
    for rule in rules():
        if "record" in rule:
            known[rule["record"]] = set.union(*grouped_by(rule["expr"])) - {"le"}
    return known


@pytest.mark.parametrize(("query", "legend"), queries())
def test_queries_ask_for_what_the_service_shows(shown: Series, query: str, legend: str) -> None:
    known = with_recorded(shown)
    asked = selectors(query)
    for selector in asked:
        assert selector.name in known, "no such series"
        for matcher in selector.matchers.matchers:
            assert matcher.name in known[selector.name], f"{selector.name} has no {matcher.name}"
    groups = grouped_by(query)
    for labels in groups:
        assert labels <= set.union(*(known[selector.name] for selector in asked))
    of_result = groups[0] if groups else set.union(*(known[selector.name] for selector in asked))
    assert set(re.findall(r"{{(\w+)}}", legend)) <= of_result


def test_label_values_in_queries_exist(shown: Series) -> None:
    checked = set()
    for query in (parameter.values[0] for parameter in queries()):
        for selector in selectors(query):
            for matcher in selector.matchers.matchers:
                values = shown.get(selector.name, {}).get(matcher.name)
                if values is None or matcher.op == promql_parser.MatchOp.NotRe:
                    continue
                # No digit here is suspicious for sure; "flagged" says so in two words.
                values = values | ({"true", "false"} if matcher.name == "flagged" else set())
                assert any(re.fullmatch(matcher.value, value) for value in values), str(selector)
                checked.add((matcher.name, matcher.value))
    assert {("reason", "overloaded"), ("state", "failed"), ("knowledge", "white_box")} <= checked


def test_routes_left_out_of_the_traffic_exist(app_settings: Settings) -> None:
    paths = create_app(app_settings).openapi()["paths"]
    patterns = {
        matcher.value
        for parameter in queries()
        for selector in selectors(parameter.values[0])
        for matcher in selector.matchers.matchers
        if matcher.name == "route"
    }
    assert len(patterns) == 1, "rules and dashboard count the same requests"
    for part in patterns.pop().split("|"):
        assert any(re.fullmatch(part, path) for path in paths), part


def test_every_metric_is_watched(shown: Series) -> None:
    """A metric that nobody looks at is not worth its memory."""
    names = {name for p in queries() for s in selectors(p.values[0]) if (name := s.name)}
    stems = {re.sub("_(total|bucket|sum|count|created)$", "", name) for name in shown}
    used = {re.sub("_(total|bucket|sum|count)$", "", name) for name in names}
    assert {stem for stem in stems if stem.startswith("fend_")} - used == set()


# ---- rules


def test_every_alert_says_what_and_how_bad() -> None:
    page = (ROOT / "docs/deploying.md").read_text()
    for alert in [rule for rule in rules() if "alert" in rule]:
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert alert["annotations"]["summary"]
        assert f"`{alert['alert']}`" in page, "docs/deploying.md says what to do about each alert"


def test_every_alert_has_a_unit_test() -> None:
    cases = read_yaml("tests/compose/alerts.test.yml")["tests"]
    fires = {
        check["alertname"]
        for case in cases
        for check in case["alert_rule_test"]
        if check["exp_alerts"]
    }
    assert fires == {rule["alert"] for rule in rules() if "alert" in rule}


def test_promtool_accepts_the_rules_and_their_tests() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus); make compose-test has it")
    files = [ROOT / "docker/prometheus" / name for name in RULES]
    for command in (["check", "rules", *files], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run(
            [promtool, *command], cwd=ROOT / "tests/compose", capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_is_given_its_rules_and_scrapes_the_service() -> None:
    config = read_yaml("docker/prometheus/prometheus.yml")
    assert config["rule_files"] == RULES
    volumes = read_yaml("docker-compose.yml")["services"]["prometheus"]["volumes"]
    assert "./docker/prometheus:/etc/prometheus:ro" in volumes
    (job,) = config["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert (job["job_name"], name) == ("fend", "service")
    assert f"EXPOSE {port}\n" in (ROOT / "docker/service.Dockerfile").read_text()


# ---- the dashboard


def test_dashboard_keeps_grafanas_schema() -> None:
    """Read into Grafana's own types and written again, nothing is lost: no key is misspelt."""
    plugins.register_default_plugins()
    before = dashboard()
    after = json.loads(JSONEncoder(sort_keys=True, indent=0).encode(Dashboard.from_json(before)))
    assert list(lost(before, after)) == []


def lost(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """The places of `before` that `after` does not have."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                yield from lost(value, after[key], f"{path}/{key}")
            else:
                yield f"{path}/{key}"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from lost(one, other, f"{path}/{number}")
    elif before != after:
        yield path


def test_dashboard_uses_the_provisioned_data_source() -> None:
    (source,) = read_yaml("docker/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    used = {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]}
    used |= {variable["datasource"]["uid"] for variable in dashboard()["templating"]["list"]}
    assert used == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"


def test_panels_say_what_they_show_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["description"].endswith(".")
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(set(ids)) == len(ids)


def test_grafana_finds_its_dashboards() -> None:
    grafana = read_yaml("docker-compose.yml")["services"]["grafana"]
    (provider,) = read_yaml("docker/grafana/provisioning/dashboards/fend.yml")["providers"]
    mounts = dict(reversed(volume.split(":")[:2]) for volume in grafana["volumes"])
    folder = ROOT / mounts[provider["options"]["path"]]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (folder / Path(home).name).is_file()
