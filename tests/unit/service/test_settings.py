"""Settings: flags over environment over defaults, and bad ones are named."""

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from service.cli import serve
from service.settings import Limits, Settings, SettingsError, read_settings


def test_flags_win_over_the_environment_which_wins_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FEND_PORT", "9001")
    monkeypatch.setenv("FEND_MAX_BATCH", "7")
    settings = read_settings({"port": 9002, "max_batch": None, "queue_size": None})
    assert (settings.port, settings.max_batch, settings.queue_size) == (9002, 7, 128)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"port": 70_000}, "port"),
        ({"max_batch": 0}, "max_batch"),
        ({"model_limits": "{"}, "model_limits: .* no JSON"),
        ({"model_limits": "[]"}, "model_limits"),
        ({"model_limits": '{"mnist": {"queue": 4}}'}, "model_limits.mnist.queue: "),
        ({"model_limits": '{"mnist": {"queue_size": 0}}'}, "model_limits.mnist.queue_size: "),
    ],
)
def test_a_bad_setting_is_named(flags: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        read_settings(flags)


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
