"""`fend audit MODEL --url`: what a service found, here, over restarts of it; clear errors."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fend.cli.remote_audit import run_at
from fend.errors import FendError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

SPEC = {
    "dataset": "rendered-digits", "samples": 9, "shard_size": 3, "sanity_samples": 3,
    "threat": {"epsilon": 0.1}, "attacks": [{"name": "fgsm"}, {"name": "pgd", "steps": 400}],
}  # fmt: skip


def command(folder: Path, spec: dict[str, Any], *flags: str) -> list[str]:
    (folder / "spec.json").write_text(json.dumps(spec))
    return [
        sys.executable, "-c", "from fend.cli.main import main; main()", "audit", "mnist",
        "--spec", str(folder / "spec.json"), *flags,
    ]  # fmt: skip


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name[:5] != "FEND_"}
    return kept | {"COLUMNS": "200"} | variables


def test_an_audit_is_followed_over_a_restart_of_the_service(
    audit_service, tiny_bundle_dir, tmp_path
):
    token, state = "a-token-of-ours", tmp_path / "state"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    settings = {"port": port, "admin_token": token}
    report, rows = tmp_path / "report.json", tmp_path / "rows.jsonl"
    asked = command(
        tmp_path, SPEC, "--url", f"http://127.0.0.1:{port}",
        "--output", str(report), "--rows", str(rows),
    )  # fmt: skip
    with audit_service(tiny_bundle_dir, state, **settings) as audits:
        audits.http.headers["Authorization"] = f"Bearer {token}"
        following = subprocess.Popen(
            asked, env=environment(FEND_ADMIN_TOKEN=token), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        worker = audits.worker()
        assert worker
    assert following.poll() is None, following.communicate()
    with audit_service(tiny_bundle_dir, state, **settings) as audits:
        audits.http.headers["Authorization"] = f"Bearer {token}"
        out, err = following.communicate(timeout=120)
        assert following.returncode == 0, err
        [audit] = audits.http.get("/v1/admin/audits").json()["audits"]
        document = json.loads(report.read_text())
        assert document["result"] == audits.finished(audit["id"])
        samples = audits.http.get(f"/v1/admin/audits/{audit['id']}/samples").text
    assert [json.loads(line) for line in rows.read_text().splitlines()] == [
        json.loads(line) for line in samples.splitlines()
    ]
    assert "white_box" in out
    assert document["result"]["verdict"].split(":")[0] in out
    assert "9/9" in err


def test_what_is_wrong_is_said_clearly(audit_service, tiny_bundle_dir, tmp_path, monkeypatch):
    monkeypatch.delenv("FEND_ADMIN_TOKEN", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    with audit_service(tiny_bundle_dir, tmp_path / "state") as audits:
        url = str(audits.http.base_url)
        token = tmp_path / "token"
        token.write_text(audits.http.headers["Authorization"].removeprefix("Bearer ") + "\n")
        wrong = tmp_path / "wrong"
        wrong.write_text("sesame")
        body = {**SPEC, "model": "mnist"}
        for where, file, asked, code, says in [
            (url, None, body, "token_missing", "FEND_ADMIN_TOKEN"),
            (url, tmp_path / "nowhere", body, "token_missing", "nowhere"),
            (url, wrong, body, "unauthorized", "admin token"),
            (nobody, token, body, "service_unreachable", "is the service running"),
            ("ftp://x", token, body, "service_unreachable", "no URL of a service"),
            (f"{url}/docs", token, body, "service_unreachable", "check the URL"),
            (url, token, {**body, "dataset": "x"}, "dataset_unknown", "rendered-digits"),
            (url, token, {**body, "model": "x"}, "model_unknown", "mnist"),
        ]:
            with pytest.raises(FendError, match=says) as refused:
                run_at(where, file, asked, False)
            assert refused.value.code == code
            assert "sesame" not in str(refused.value)
