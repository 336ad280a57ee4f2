from pathlib import Path

from typer.testing import CliRunner

from fend.cli.data import app
from fend.datasets import (
    mnist,
)


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
