"""The process: how it starts, what it prints, and how it stops."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import until

from service.cli import EXIT_CODES, STARTUP_FAILURE

PNG_TYPE = {"Content-Type": "image/png"}


def test_sigterm_stops_readiness_at_once_serves_on_and_ends_well(
    run_server, tiny_bundle_dir, tmp_path, digit_pngs
):
    data, label = digit_pngs[0]
    with run_server(tiny_bundle_dir, tmp_path, drain_delay_s=2) as server:
        assert server.token not in server.output()
        server.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{server.base_url}/readyz").status_code == 503)
        assert httpx.get(f"{server.base_url}/readyz").json()["code"] == "draining"
        # New connections are still served: this is what the delay is for.
        served = httpx.post(f"{server.base_url}/v1/classify", content=data, headers=PNG_TYPE)
        assert served.json()["label"] == label
        assert server.process.wait(30) == 0
        lines = server.output()
        assert '"event":"stopped"' in lines
        assert "Traceback" not in lines


def test_a_request_in_flight_is_finished_before_the_end(
    run_server, tiny_bundle_dir, tmp_path, digit_pngs
):
    data, label = digit_pngs[0]
    with run_server(tiny_bundle_dir, tmp_path, drain_delay_s=0) as server:
        host, port = server.base_url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            head = (
                f"POST /v1/classify HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\n"
                f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
            )
            connection.sendall(head.encode() + data[:100])
            time.sleep(0.3)  # let the server take the request up
            server.process.send_signal(signal.SIGTERM)
            until(lambda: not _accepts(host, int(port)))
            connection.sendall(data[100:])
            response = b"".join(iter(lambda: connection.recv(65536), b""))
        assert response.startswith(b"HTTP/1.1 200"), response
        assert json.loads(response.split(b"\r\n\r\n", 1)[1])["label"] == label
        assert server.process.wait(30) == 0


def test_each_request_is_one_json_line_without_secrets(live_server):
    headers = {"Authorization": f"Bearer {live_server.token}", "X-Request-ID": "my-id.1"}
    response = httpx.get(f"{live_server.base_url}/v1/models/nobody", headers=headers)
    assert response.headers["x-request-id"] == "my-id.1"
    lines: list[dict[str, Any]] = []

    def logged() -> bool:
        written = live_server.output()
        assert live_server.token not in written
        lines.extend(json.loads(line) for line in written.splitlines() if line[0] == "{")
        return any(line.get("request_id") == "my-id.1" for line in lines)

    until(logged)
    [line] = [line for line in lines if line.get("request_id") == "my-id.1"]
    assert (line["route"], line["status"]) == ("/v1/models/{name}", 404)
    assert line["code"] == "model_unknown"
    assert line["duration_ms"] > 0


def test_torchvision_and_training_are_never_imported(tiny_bundle_dir, tmp_path):
    script = """
import asyncio, sys
from pathlib import Path
from service.app import create_app
from service.settings import Settings
async def start(app):
    async with app.router.lifespan_context(app):
        pass
models, state = map(Path, sys.argv[1:])
asyncio.run(start(create_app(Settings(models_dir=models, state_dir=state, device="cpu"))))
print([name for name in sys.modules if name.split(".")[0] in ("torchvision", "training")])
"""
    done = start([sys.executable, "-c", script, str(tiny_bundle_dir), str(tmp_path)])
    assert done.stdout.strip().splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(("code", "exit_code"), EXIT_CODES.items())
def test_a_failed_start_is_one_clear_line_and_an_exit_code_of_its_own(
    code, exit_code, tiny_bundle_dir, tmp_path
):
    used_state = tmp_path / "a file"
    used_state.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        failing = {
            "settings_invalid": (["--admin-token", ""], "token"),
            "exposure_refused": (["--host", "0.0.0.0"], "FEND_ADMIN_TOKEN_FILE"),
            "port_unavailable": (["--port", str(port)], f"127.0.0.1:{port}"),
            "no_models": (["--models-dir", str(tmp_path)], "FEND_MODELS_DIR"),
            "device_unavailable": (["--device", "abacus"], "abacus"),
            "state_unavailable": (["--state-dir", str(used_state)], str(used_state)),
        }
        flags, says = failing[code]
        usual = ["--models-dir", str(tiny_bundle_dir), "--port", "0", "--device", "cpu"]
        done = start([sys.executable, "-m", "service", *usual, *flags], cwd=tmp_path)
    [line] = done.stderr.strip().splitlines()
    assert says in line
    assert done.returncode == exit_code
    assert done.stdout == ""


def test_every_exit_code_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "deploying.md").read_text()
    table = page.split("| exit code |")[1].split("\n\n")[0]
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert codes == sorted({0, 1, STARTUP_FAILURE, *EXIT_CODES.values()})


def test_a_generated_token_is_shown_once_and_works(tiny_bundle_dir, tmp_path):
    command = [sys.executable, "-m", "service", "--port", "0", "--models-dir", tiny_bundle_dir]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        block = [process.stderr.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert "http://127.0.0.1:" in block[0]
    assert "mnist  sha256:" in block[1]
    token = block[2].split()[2]
    assert len(token) >= 32
    assert token not in out + err


def clean_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name[:5] != "FEND_"}
    return kept | {"OMP_NUM_THREADS": "1"}


def start(command: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=60
    )


def _accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError:
        return False
    return True
