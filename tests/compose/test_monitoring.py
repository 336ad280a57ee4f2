"""Prometheus and Grafana ask for what the service really has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from service.runtime.metrics import Metrics

ROOT = Path(__file__).parents[2]


def read_yaml(path: str) -> Any:
    return YAML(typ="safe").load(ROOT / path)


def sample_labels() -> dict[str, set[str]]:
    """Each series that the service can expose, with its labels."""
    known: dict[str, set[str]] = {}
    for metric in vars(Metrics()).values():
        for family in getattr(metric, "describe", list)():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
            for suffix in suffixes.get(family.type, [""]):
                known[family.name + suffix] = set(metric._labelnames)
    return known


def targets() -> list[Any]:
    dashboard = json.loads((ROOT / "docker/grafana/dashboards/fend.json").read_text())
    return [
        pytest.param(target, id=f"{panel['title']} {target['refId']}")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


@pytest.mark.parametrize("target", targets())
def test_dashboard_asks_for_series_that_the_service_has(target: dict[str, Any]) -> None:
    known = sample_labels()
    names = set(re.findall(r"fend_\w+", target["expr"]))
    assert names or target["expr"].startswith("up{")
    assert names <= set(known)
    grouped = re.findall(r"by \(([\w, ]+)\)", target["expr"])
    labels = {label for group in grouped for label in re.split(", *", group)}
    if not grouped and names:
        labels |= set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
    assert labels - {"le"} <= set.union(set(), *(known[name] for name in names))


def test_dashboard_uses_the_provisioned_data_source() -> None:
    dashboard = json.loads((ROOT / "docker/grafana/dashboards/fend.json").read_text())
    (source,) = read_yaml("docker/grafana/provisioning/datasources/prometheus.yml")["datasources"]
    used = {target["datasource"]["uid"] for p in dashboard["panels"] for target in p["targets"]}
    assert used == {source["uid"]}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_grafana_finds_its_dashboards() -> None:
    grafana = read_yaml("docker-compose.yml")["services"]["grafana"]
    (provider,) = read_yaml("docker/grafana/provisioning/dashboards/fend.yml")["providers"]
    mounts = dict(reversed(volume.split(":")[:2]) for volume in grafana["volumes"])
    folder = ROOT / mounts[provider["options"]["path"]]
    home = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (folder / Path(home).name).is_file()


def test_prometheus_scrapes_the_port_that_the_image_exposes() -> None:
    (job,) = read_yaml("docker/prometheus.yml")["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert name == "service"
    assert f"EXPOSE {port}\n" in (ROOT / "docker/service.Dockerfile").read_text()
