"""Every documented route, asked by schemathesis: no 500, no undocumented status, type or schema.

The variable SCHEMATHESIS_EXAMPLES makes it a longer run, other each time: see benchmarks/README.md.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
WANTED = os.environ.get("SCHEMATHESIS_EXAMPLES")
HOW_MANY = ["-n", WANTED] if WANTED else ["-n", "4", "--generation-deterministic"]

TINY = {
    "preset": "quick",
    "model": "mnist",
    "dataset": "rendered-digits",
    "samples": 4,
    "sanity_samples": 2,
    "threat": {"norm": "linf", "epsilon": 0.1},
    "attacks": [{"name": "fgsm"}],
}


def test_every_route_answers_as_documented(run_server, tiny_bundle_dir, tmp_path):
    with run_server(tiny_bundle_dir, tmp_path, worker_priority="normal") as server:
        environment = os.environ | {"FEND_ADMIN_TOKEN": server.token, "AUDIT_ID": audited(server)}
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli"),
                *("--config-file", HERE / "schemathesis.toml"),
                *("run", f"{server.base_url}/openapi.json", "--no-color"),
                *HOW_MANY,
            ],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        metrics = httpx.get(f"{server.base_url}/metrics").text
    assert 'code="too_many_failures"' not in metrics, "wrong keys locked schemathesis out"
    assert done.returncode == 0, done.stdout + done.stderr
    [(selected, tested)] = re.findall(r"Selected: (\d+)/\d+\s+Tested: (\d+)", done.stdout)
    assert selected == tested
    [passed] = re.findall(r"\d+ generated, (\d+) passed", done.stdout)
    assert int(passed) >= 300
    if WANTED:
        sys.stdout.write(done.stdout)


def audited(server: Any) -> str:
    """The id of an audit that has just finished."""
    headers = {"Authorization": f"Bearer {server.token}"}
    response = httpx.post(
        f"{server.base_url}/v1/admin/audits?wait=60", json=TINY, headers=headers, timeout=90
    )
    assert response.status_code == 200, response.text
    return response.json()["id"]
