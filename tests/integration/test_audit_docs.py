"""docs/auditing.md: its curl lines work, and it leaves out no preset, level, attack or check."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from fend.attacks import AttackSpec
from fend.audit import PRESETS
from fend.audit.sanity import CHECKS
from fend.threat import Knowledge
from service.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/auditing.md").read_text()
CURL_SECTION = PAGE.split("## From start to report, with curl")[1].split("\n## ")[0]
TOKEN = "choose-a-long-one"
FEND = """fend() { "$PYTHON" -c 'from fend.cli.main import main; main()' "$@"; }\n"""


def test_the_page_names_everything_that_can_be_asked_for() -> None:
    attacks = [kind.model_fields["name"].default for kind in get_args(get_args(AttackSpec)[0])]
    for name in (*PRESETS, *Knowledge, *attacks):
        assert f"| `{name}` |" in PAGE, name
    for check in CHECKS:
        assert f"| {check.name} |" in PAGE, check.name
    for kind in get_args(get_args(AttackSpec)[0]):
        [row] = [line for line in PAGE.splitlines()
                 if line.startswith(f"| `{kind.model_fields['name'].default}` |")]  # fmt: skip
        options = set(re.findall(r"`(\w+)`", row.split("|")[3]))
        assert options == set(kind.model_fields) - {"name", "objective", "gradient"}, row


def test_the_page_gives_the_defaults_of_the_settings() -> None:
    units = {"": 1, " MiB": 2**20, " GiB": 2**30}
    found = re.findall(r"`FEND_(KEEP\w+|MAX\w+)` \(([\d.]+)((?: [MG]iB)?)", " ".join(PAGE.split()))
    assert len(found) == 6
    for name, number, unit in found:
        default = Settings.model_fields[name.lower()].default
        assert float(number) * units[unit] == default, name


@pytest.mark.skipif(sys.platform != "linux", reason="needs curl and sed of GNU")
def test_the_curl_lines_work(audit_service: Any, tiny_bundle_dir: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", CURL_SECTION, re.DOTALL)
    assert "make serve" in blocks[0]
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    with audit_service(tiny_bundle_dir, tmp_path / "state", admin_token=TOKEN) as audits:
        script = "\n".join(blocks[1:])
        # Another port, and fewer images: the lines are the same.
        script = script.replace("http://127.0.0.1:8000", str(audits.http.base_url).rstrip("/"))
        script = script.replace('"preset": "quick"', '"preset": "quick", "samples": 4')
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", FEND + script],
            cwd=tmp_path, env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        audits.http.headers["Authorization"] = f"Bearer {TOKEN}"
        states = [audit["state"] for audit in audits.http.get("/v1/admin/audits").json()["audits"]]
        assert states == ["succeeded", "cancelled", "succeeded", "succeeded"]
        assert audits.http.get("/v1/admin/datasets").json()["datasets"] == []
    assert 'event: state\ndata: {"state":"queued"}\nid: 1' in done.stdout
    assert done.stdout.count("event: end") == 2
    assert "# Robustness of mnist" in done.stdout
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    reports = [json.loads((tmp_path / name).read_text()) for name in ("before.json", "after.json")]
    assert [report["result"]["identity"]["seed"] for report in reports] == [0, 1]
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert {"clean", "attack", "cost", "probe", "example", "served"} <= {r["kind"] for r in rows}
    assert "worst case" in done.stdout
    assert '"images_by_label":{' in done.stdout
