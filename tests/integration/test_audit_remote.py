"""`fend audit MODEL --url`: what the service found, on this terminal, over restarts; clear errors."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")

SPEC = {
    "dataset": "rendered-digits", "samples": 9, "shard_size": 3, "sanity_samples": 3,
    "threat": {"epsilon": 0.1}, "attacks": [{"name": "fgsm"}, {"name": "pgd", "steps": 400}],
}  # fmt: skip
SMALL = {**SPEC, "samples": 2, "attacks": [{"name": "fgsm"}]}


def command(folder: Path, spec: dict[str, Any], *flags: str) -> list[str]:
    (folder / "spec.json").write_text(json.dumps(spec))
    return [
        sys.executable, "-c", "from fend.cli import main; main()", "audit", "mnist",
        "--spec", str(folder / "spec.json"), *flags,
    ]  # fmt: skip


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name[:5] != "FEND_"}
    return kept | {"COLUMNS": "200"} | variables


def run(
    folder: Path, spec: dict[str, Any], *flags: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(folder, spec, *flags), env=environment(**variables), capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip


def token_of(audits: Any) -> str:
    token: str = audits.http.headers["Authorization"].removeprefix("Bearer ")
    return token


def test_an_audit_is_followed_over_a_restart_of_the_service(
    audit_service: Any, tiny_bundle_dir: Path, tmp_path: Path
) -> None:
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


def test_what_is_wrong_is_one_clear_line(
    audit_service: Any, tiny_bundle_dir: Path, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    token_file = tmp_path / "token"
    with audit_service(tiny_bundle_dir, tmp_path / "state") as audits:
        url = str(audits.http.base_url)
        token_file.write_text(token_of(audits) + "\n")
        with_token = ("--token-file", str(token_file))
        for flags, code, says in [
            (("--url", url), "audit_spec_invalid", "FEND_ADMIN_TOKEN"),
            (("--url", url, "--token-file", "nowhere"), "audit_spec_invalid", "nowhere"),
            (("--url", nobody, *with_token), "service_unreachable", "is the service running"),
            (("--url", "ftp://x", *with_token), "service_unreachable", "no URL of a service"),
            (("--url", f"{url}/docs", *with_token), "service_unreachable", "check the URL"),
            (("--url", url, *with_token, "--dataset", "x"), "dataset_unknown", "rendered-digits"),
        ]:
            done = run(tmp_path, SMALL, *flags)
            assert done.returncode == 2, done.stderr
            [line] = done.stderr.strip().splitlines()
            assert f"error [{code}]" in line
            assert says in line
        wrong = run(tmp_path, SMALL, "--url", url, FEND_ADMIN_TOKEN="wrong")
        assert "error [unauthorized]" in wrong.stderr
        assert "wrong" not in wrong.stderr
        assert run(tmp_path, SMALL, "--url", url, *with_token).returncode == 0
