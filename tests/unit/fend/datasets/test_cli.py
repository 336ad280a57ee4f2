from inspect import signature
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.common import parser_of
from fend.cli.audit import audit
from fend.cli.data import app, fetch, list_data
from fend.cli.main import build_app
from fend.cli.self_test import self_test
from fend.datasets import mnist
from reproduction.cli import reproduce
from service.settings import Settings
from training.cli import train


class TestCommands:
    def test_list_says_what_is_missing_and_where(self, tmp_path: Path) -> None:
        result = CliRunner(env={"COLUMNS": "200", "FEND_DATA_DIR": str(tmp_path)}).invoke(
            app, ["list"]
        )
        assert result.exit_code == 0
        assert "missing: fend data fetch mnist" in result.output
        assert "built in" in result.output
        assert str(tmp_path) in result.output

    def test_list_and_fetch_see_what_is_there(self, tmp_path: Path) -> None:
        folder = tmp_path / "MNIST" / "raw"
        folder.mkdir(parents=True)
        for name in mnist.MD5S:
            (folder / name).touch()
        runner = CliRunner(env={"COLUMNS": "200"})
        listed = runner.invoke(app, ["list", "--data-dir", str(tmp_path)])
        assert "here" in listed.output
        assert "fetch mnist" not in listed.output
        fetched = runner.invoke(app, ["fetch", "mnist", "--data-dir", str(tmp_path)])
        assert fetched.exit_code == 0
        assert f"mnist is in {tmp_path}" in fetched.output

    def test_fetch_of_an_unknown_set(self, tmp_path: Path) -> None:
        result = CliRunner().invoke(app, ["fetch", "imagenet", "--data-dir", str(tmp_path)])
        assert result.exception.code == "dataset_unknown"


class TestDataDir:
    """One folder for every command, the service and the benchmarks."""

    def test_its_default_is_the_same_everywhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("FEND_DATA_DIR", raising=False)
        commands = (list_data, fetch, audit, self_test, train, reproduce)
        defaults = {signature(command).parameters["data_dir"].default for command in commands}
        assert defaults == {Settings().data_dir} == {parser_of("").get_default("data_dir")}
        monkeypatch.setenv("FEND_DATA_DIR", str(Path(__file__).parent))
        assert Settings().data_dir == parser_of("").get_default("data_dir") == Path(__file__).parent

    @pytest.mark.parametrize(
        "command",
        ["audit mnist", "audit self-test", "data list", "reproduce", "train mnist-unsecured"],
    )
    @pytest.mark.parametrize(
        ("folder", "says"), [("/nope", "no folder /nope"), (__file__, "not a folder")]
    )
    def test_what_cannot_be_it_is_told_before_the_work(self, command, folder, says):
        words = command.split()
        result = CliRunner(env={"FEND_DATA_DIR": folder, "COLUMNS": "400"}).invoke(
            build_app(words[0]), words
        )
        assert result.exit_code == 2
        assert says in result.output
