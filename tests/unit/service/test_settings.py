"""Settings: flags over environment over defaults, and bad ones are named."""

import pytest
import typer
from typer.testing import CliRunner

from service.cli import serve
from service.settings import Settings, SettingsError, read_settings


def test_flags_win_over_the_environment_which_wins_over_defaults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FEND_PORT", "9001")
    monkeypatch.setenv("FEND_MAX_BATCH", "7")
    settings = read_settings({"port": 9002, "max_batch": None, "queue_size": None})
    assert (settings.port, settings.max_batch, settings.queue_size) == (9002, 7, 256)


@pytest.mark.parametrize(
    ("flags", "named"),
    [({"port": 70_000}, "port"), ({"max_batch": 0}, "max_batch"), ({"workers": 2}, "workers")],
)
def test_a_bad_setting_is_named(flags: dict[str, int], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        read_settings(flags)


def test_every_setting_is_a_documented_flag() -> None:
    app = typer.Typer()
    app.command()(serve)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    for name, field in Settings.model_fields.items():
        assert field.description
        assert "--" + name.replace("_", "-") in shown
        assert f"FEND_{name.upper()}" in shown
