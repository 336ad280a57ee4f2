"""docs/api.md: its lines work as they stand, and its table of codes is the service's."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fend.errors import FendError
from service.app import create_app
from service.settings import Settings

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/api.md").read_text()
FEND = """fend() { "$PYTHON" -c 'from fend.cli.main import main; main()' "$@"; }\n"""
OF_HTTP = {
    "bad_request": 400,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_invalid": 422,
    "internal_error": 500,
}
"""Codes that no error class of ours has."""
OF_NO_ANSWER = {
    "exposure_refused", "settings_invalid", "port_unavailable", "device_unavailable", "no_models",
    "graph_disagrees", "download_failed", "audit_worker_died", "audit_crashed", "service_silent",
    "audit_inputs_changed",
}  # fmt: skip
"""Codes of the service's start, of its log, of commands, and of audits that failed."""


CODE = r'\bcode(?:: str)? ?= ?"([a-z_]+)"'
ANSWERING = ("service", "fend/images", "fend/datasets")
"""Folders whose errors a caller can get."""


def read(*folders: str) -> list[str]:
    return [path.read_text() for top in folders for path in (ROOT / top).rglob("*.py")]


def documented() -> dict[str, int]:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| (\d{3}) \|", PAGE, re.MULTILINE)
    return {code: int(status) for codes, status in rows for code in re.findall(r"\w+", codes)}


def errors(kind: type[FendError]) -> Iterator[type[FendError]]:
    for child in kind.__subclasses__():
        yield child
        yield from errors(child)


def test_the_table_has_every_code_with_its_status(app_settings: Settings) -> None:
    create_app(app_settings)  # imports all that can raise
    table = documented()
    raised = set(re.findall(CODE, "".join(read("fend", "service"))))
    assert set(table) - set(OF_HTTP) - raised == set(), "no error has these codes"
    answered = set(re.findall(CODE, "".join(read(*ANSWERING)))) - OF_NO_ANSWER
    assert answered - set(table) == set(), "docs/api.md explains every code of an answer"
    statuses = re.findall(r'code="(\w+)",\s+status=(\d+)', "".join(read("service")))
    assert {code: int(status) for code, status in statuses}.items() <= table.items()
    for kind in errors(FendError):
        if isinstance(kind.code, str) and kind.code in table and kind.status != FendError.status:
            assert kind.status == table[kind.code], kind
        if kind.__module__.startswith("service.api."):
            assert kind.code in table, kind


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the lines find around them in the repository."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "README.md").symlink_to(ROOT / "README.md")
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name[:5] != "FEND_"}
    return kept | {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}


@pytest.mark.skipif(sys.platform != "linux", reason="needs curl and bash")
def test_the_shell_lines_work(live_server: Any, folder: Path, environment: dict[str, str]) -> None:
    first, *blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    assert first == "make serve\n"
    script = "\n".join(blocks).replace("http://127.0.0.1:8000", live_server.base_url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", FEND + script],
        cwd=folder, env=environment | {"FEND_ADMIN_TOKEN": live_server.token},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads((folder / "answer.json").read_text())["denoised"].startswith("data:image/png")
    assert (folder / "denoised.png").read_bytes().startswith(b"\x89PNG")
    assert "x-request-id: my-request-1" in (folder / "headers.txt").read_text().lower()
    assert '"format":"tensor"' in done.stdout
    assert '"code":"unsupported_image_format"' in done.stdout
    assert '"undefended_holds":' in done.stdout
    assert "fend_predictions_total" in done.stdout
    listed = [line for line in done.stdout.splitlines() if line.startswith('{"file"')]
    assert [json.loads(line)["file"] for line in listed] == [
        f"docs/images/digits/{digit}.png" for digit in range(5)
    ]


def test_the_python_examples_work(live_server, folder, environment):
    said = []
    for program in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        done = subprocess.run(
            [sys.executable, "-c", program.replace("http://127.0.0.1:8000", live_server.base_url)],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    one, many = said
    lines = one.splitlines()
    assert lines[-2:] == ["['mnist']", "unsupported_image_format 415"]
    labels = [line.removeprefix(f"{n}.png ") for n, line in enumerate(lines[1:11])]
    assert many.strip() == "".join(labels)
    assert (folder / "clean.png").read_bytes().startswith(b"\x89PNG")
