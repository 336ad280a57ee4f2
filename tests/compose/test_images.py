"""The Dockerfiles, what goes into a build, and the scripts that the images run."""

import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = ["docker/service.Dockerfile", "docker/training.Dockerfile"]


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60, **options
    )


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_has_nothing_to_say(dockerfile: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = run(hadolint, ROOT / dockerfile)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_images_hold_every_package_and_run_as_nobody_special(dockerfile: str) -> None:
    text = (ROOT / dockerfile).read_text()
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for pattern in pyproject["tool"]["setuptools"]["packages"]["find"]["include"]:
        package = pattern.removesuffix("*")
        assert f"COPY {package} {package}\n" in text
        assert f"!{package}" in ignore
    assert re.findall(r"^USER (.*)$", text, flags=re.MULTILINE) == ["10001:10001"]


def test_nothing_reaches_a_build_that_is_not_named() -> None:
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    assert next(line for line in patterns if line and not line.startswith("#")) == "*"
    assert not [line for line in patterns if line.startswith("!") and "secret" in line]


PINS = "numpy==2.3.0\ntorch==2.15.0\nnvidia-nccl-cu12==2.29\ntriton==3.7.0\n"


@pytest.mark.parametrize(
    ("torch", "pins"), [("torch>=2.11", PINS.split()), ("torch==2.13.0+cpu", ["numpy==2.3.0"])]
)
def test_an_exact_torch_wins_over_the_pins(tmp_path: Path, torch: str, pins: list[str]) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "constraints.txt").write_text(PINS)
    script = ROOT / "docker/requirements.py"
    run(sys.executable, script, ".", torch, "train", cwd=tmp_path, check=True)
    requirements = (tmp_path / "requirements.txt").read_text().splitlines()
    assert [line for line in requirements if re.match(r"torch\b", line)] == [torch]
    assert {"fastapi", "numpy", "torchvision"} <= {re.split("[<>=]", r)[0] for r in requirements}
    assert (tmp_path / "constraints.txt").read_text().split() == pins


class Readiness(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.mark.parametrize(("status", "exit_code"), [(200, 0), (503, 1)])
def test_health_check_follows_readiness(status: int, exit_code: int) -> None:
    handler = type("Handler", (Readiness,), {"status": status})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        proxy = "http://127.0.0.1:9"  # nothing listens there: a health check must not ask it
        environment = {**os.environ, "FEND_PORT": str(server.server_port), "http_proxy": proxy}
        done = run(sys.executable, ROOT / "docker/healthcheck.py", env=environment)
        server.shutdown()
    assert done.returncode == exit_code, done.stderr
    assert "Traceback" not in done.stderr


def test_health_check_fails_when_nothing_listens() -> None:
    environment = {**os.environ, "FEND_PORT": "9"}
    done = run(sys.executable, ROOT / "docker/healthcheck.py", env=environment)
    assert done.returncode == 1
    assert done.stderr.startswith("not ready: ")
