"""Settings: flags over environment over defaults, and bad ones are named."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fend.errors import Invalid
from service.cli import serve
from service.settings import OTHER_VARIABLES, Limits, Settings, read_settings, unknown_variables

ROOT = Path(__file__).parents[3]


def test_flags_win_over_the_environment_which_wins_over_defaults(monkeypatch):
    monkeypatch.setenv("FEND_PORT", "9001")
    monkeypatch.setenv("FEND_MAX_BATCH", "7")
    settings = read_settings({"port": 9002, "max_batch": None, "queue_size": None})
    assert (settings.port, settings.max_batch, settings.queue_size) == (9002, 7, 128)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"port": 70_000}, "port"),
        ({"max_batch": 0}, "max_batch"),
        ({"root_path": "fend"}, "root_path"),
        ({"root_path": "//evil.example"}, "root_path"),
        ({"root_path": "/v1"}, "root_path: .* another prefix"),
        ({"cors_origins": "app.example"}, "cors_origins: .* no origin"),
        ({"cors_origins": "https://a.example https://b.example/"}, "https://b.example/' is no"),
        ({"allowed_hosts": "https://fend.example"}, "allowed_hosts: .* no name of a host"),
        ({"allowed_hosts": "fend.*"}, "allowed_hosts: .* no name of a host"),
        ({"data_dir": "/nope"}, "data_dir: .* there is no folder /nope"),
        ({"data_dir": __file__}, "data_dir: .* is not a folder"),
        ({"model_limits": "{"}, "model_limits: .* no JSON"),
        ({"model_limits": "[]"}, "model_limits"),
        ({"model_limits": '{"mnist": {"queue": 4}}'}, "model_limits.mnist.queue: "),
        ({"model_limits": '{"mnist": {"queue_size": 0}}'}, "model_limits.mnist.queue_size: "),
    ],
)
def test_a_bad_setting_is_named(flags: dict[str, Any], named: str) -> None:
    with pytest.raises(Invalid, match=named):
        read_settings(flags)


def test_lists_are_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEND_CORS_ORIGINS", "https://a.example, http://[::1]:3000")
    settings = read_settings({"allowed_hosts": "*.example [::1]", "root_path": "/a/b/"})
    assert settings.cors_origins == ("https://a.example", "http://[::1]:3000")
    assert settings.allowed_hosts == ("*.example", "[::1]")
    assert settings.root_path == "/a/b"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("FEND_INFERENCE_KEYS", "x", "FEND_INFERENCE_KEYS is no setting (FEND_INFERENCE_KEY is)"),
        ("FEND_INFRENCE_KEY", "x", "FEND_INFRENCE_KEY is no setting (FEND_INFERENCE_KEY is)"),
        ("fend_ports", "1", "fend_ports is no setting (FEND_PORT is)"),
        ("FEND_QQQQQQ", "", "FEND_QQQQQQ is no setting"),
        ("FEND_PORT", "8000", None),
        ("fend_port", "8000", None),
        ("FEND_API_KEY", "x", None),
        ("FEND_PUBLISH_PORT", "1", None),
        ("FEND_SERVICE_HOST", "192.0.2.1", None),
        ("FEND_AUDITS_SERVICE_PORT_HTTP", "80", None),
        ("FEND_AUDITS_PORT", "tcp://192.0.2.1:80", None),
        ("FEND_PORT_80_TCP_ADDR", "192.0.2.1", None),
        ("OFFEND_X", "1", None),
    ],
)
def test_variables_that_mean_nothing_are_named(monkeypatch, name, value, told):
    before = unknown_variables()
    monkeypatch.setenv(name, value)
    assert [each for each in unknown_variables() if each not in before] == ([told] if told else [])


def test_every_variable_that_is_written_about_is_known() -> None:
    text = "".join(
        path.read_text(errors="replace")
        for place in ("Makefile", "README.md", "docker-compose.yml", "docker", "docs", "fend")
        for path in ([ROOT / place] if (ROOT / place).is_file() else (ROOT / place).rglob("*"))
        if path.is_file()
    )
    named = set(re.findall(r"\bFEND_[A-Z_]+[A-Z]\b", text))
    settings = {f"FEND_{name.upper()}" for name in Settings.model_fields}
    assert named - settings - OTHER_VARIABLES == set()
    assert OTHER_VARIABLES - named == set()


def test_a_model_has_its_own_limits_or_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEND_MODEL_LIMITS", '{"a": {"queue_size": 4}}')
    settings = read_settings({"max_batch": 8})
    assert settings.limits_of("a") == Limits(queue_size=4, max_batch=8, request_timeout_s=10.0)
    assert settings.limits_of("b") == Limits(queue_size=128, max_batch=8, request_timeout_s=10.0)


def test_every_setting_is_a_documented_flag() -> None:
    app = typer.Typer()
    app.command()(serve)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    for name, field in Settings.model_fields.items():
        assert field.description
        assert "--" + name.replace("_", "-") in shown
        assert f"FEND_{name.upper()}" in shown
