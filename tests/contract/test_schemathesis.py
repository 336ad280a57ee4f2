"""Every documented route, asked by schemathesis: no 500, no undocumented status, type or schema.

A longer run of the same, by hand: `SCHEMATHESIS_EXAMPLES=200 pytest tests/contract/test_schemathesis.py`
(add `-s` to read its report).
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "4"))

TINY = {
    "model": "mnist",
    "dataset": "rendered-digits:test",
    "count": 2,
    "threat": {"norm": "linf", "budgets": [0.1]},
    "attacks": [{"name": "fgsm"}],
}


def test_every_route_answers_as_documented(
    run_server: Callable[..., AbstractContextManager[Any]], tiny_bundle_dir: Path, tmp_path: Path
) -> None:
    with run_server(tiny_bundle_dir, tmp_path, worker_priority="normal") as server:
        environment = os.environ | {"FEND_ADMIN_TOKEN": server.token, "AUDIT_ID": audited(server)}
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli"),
                *("--config-file", HERE / "schemathesis.toml"),
                *("run", f"{server.base_url}/openapi.json", "--no-color"),
                *("--max-examples", str(EXAMPLES)),
                *(["--generation-deterministic"] if "SCHEMATHESIS_EXAMPLES" not in os.environ else []),
            ],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    selected, tested = re.search(r"Selected: (\d+)/\d+\s+Tested: (\d+)", done.stdout).groups()
    assert selected == tested
    [passed] = re.findall(r"\d+ generated, (\d+) passed", done.stdout)
    assert int(passed) >= 300


def audited(server: Any) -> str:
    """The id of an audit that has just finished."""
    headers = {"Authorization": f"Bearer {server.token}"}
    response = httpx.post(
        f"{server.base_url}/v1/admin/audits?wait=60", json=TINY, headers=headers, timeout=90
    )
    assert response.status_code == 200, response.text
    audit_id: str = response.json()["id"]
    return audit_id
