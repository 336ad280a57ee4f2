"""What docker-compose.yml promises of every service, and how it is given its admin token."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from service.settings import Settings

ROOT = Path(__file__).parents[2]
SERVICES = ["service", "service-gpu", "prometheus", "grafana", "train"]
HOST_VARIABLES = {name: value for name, value in os.environ.items() if not name.startswith("FEND_")}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return YAML(typ="safe").load(ROOT / "docker-compose.yml")


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=60, **options
    )


# ---- the files are well-formed


def test_compose_file_keeps_its_schema() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    done = run(sys.executable, "-m", "check_jsonschema", *schema, ROOT / "docker-compose.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def docker_compose(project: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`docker compose config` on a copy of the file, away from the .env of this checkout."""
    if shutil.which("docker") is None or run("docker", "compose", "version").returncode != 0:
        pytest.skip("no docker client with compose here")
    shutil.copy(ROOT / "docker-compose.yml", project)
    everything = ("--profile", "gpu", "--profile", "train")
    environment = {**HOST_VARIABLES, **variables}
    return run("docker", "compose", *everything, "config", "-q", cwd=project, env=environment)


def test_docker_compose_accepts_the_file(tmp_path: Path) -> None:
    done = docker_compose(tmp_path, FEND_ADMIN_TOKEN_PATH="./secrets/admin_token")
    assert done.returncode == 0, done.stderr


def test_docker_compose_refuses_to_start_without_a_token_and_says_how_to_make_one(tmp_path):
    done = docker_compose(tmp_path)
    assert done.returncode != 0
    assert "Run docker/admin-token.sh" in done.stderr


# ---- what every service promises


def test_all_services_are_covered(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_services_are_confined(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service
    assert {"cpus", "memory", "pids"} <= set(service["deploy"]["resources"]["limits"])


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_only(compose: dict[str, Any], name: str) -> None:
    for port in compose["services"][name].get("ports", []):
        assert str(port).startswith("127.0.0.1:")


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_written_in_the_file(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    for variable in {**service.get("environment", {}), **service.get("build", {}).get("args", {})}:
        if re.search("TOKEN|PASSWORD|SECRET|KEY", variable):
            assert variable.endswith("_FILE")


def test_the_admin_token_is_a_required_file(compose: dict[str, Any]) -> None:
    assert compose["secrets"]["admin_token"]["file"].startswith("${FEND_ADMIN_TOKEN_PATH:?")
    for name in ("service", "service-gpu"):
        service = compose["services"][name]
        assert service["secrets"] == ["admin_token"]
        assert service["environment"]["FEND_ADMIN_TOKEN_FILE"] == "/run/secrets/admin_token"


def test_only_the_gpu_profile_asks_for_a_gpu(compose: dict[str, Any]) -> None:
    asking = {
        name: service["profiles"]
        for name, service in compose["services"].items()
        if "reservations" in service["deploy"]["resources"]
    }
    assert asking == {"service-gpu": ["gpu"]}


@pytest.mark.parametrize("name", SERVICES)
def test_pulled_images_have_a_version(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    if "build" not in service:
        assert re.fullmatch(r"[\w/.-]+:v?\d+\.\d+\.\d+", service["image"])


def test_a_drain_ends_before_docker_kills_the_service(compose: dict[str, Any]) -> None:
    grace_s = float(compose["services"]["service"]["stop_grace_period"].removesuffix("s"))
    settings = Settings.model_fields
    drain_s = settings["drain_delay_s"].default + settings["shutdown_timeout_s"].default
    assert grace_s > drain_s


def test_every_variable_that_the_files_set_is_a_setting(compose: dict[str, Any]) -> None:
    dockerfile = (ROOT / "docker/service.Dockerfile").read_text()
    used = set(re.findall(r"^ +(FEND_\w+)=", dockerfile, flags=re.MULTILINE))
    for name in ("service", "service-gpu"):
        used |= set(compose["services"][name]["environment"])
    assert used
    assert used <= {f"FEND_{name.upper()}" for name in Settings.model_fields}


def test_admin_token_is_made_once(tmp_path: Path) -> None:
    script = tmp_path / "docker/admin-token.sh"
    script.parent.mkdir()
    shutil.copy(ROOT / "docker/admin-token.sh", script)
    run("sh", script, check=True)
    token = tmp_path / "secrets/admin_token"
    first = token.read_text()
    assert len(first) == 64
    assert token.parent.stat().st_mode & 0o777 == 0o700
    assert token.stat().st_mode & 0o004, "the container reads it as another user"
    run("sh", script, check=True)
    assert token.read_text() == first
    assert (tmp_path / ".env").read_text() == "FEND_ADMIN_TOKEN_PATH=./secrets/admin_token\n"
