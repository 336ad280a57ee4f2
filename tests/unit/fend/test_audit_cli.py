"""The `fend` command as a person meets it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fend.audit import AuditDocument
from fend.cli import main


def fend(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fend", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def audit(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    quick = ("--dataset", "rendered-digits", "--samples", 6, "--epsilon", 0.1, "--device", "cpu")
    return fend(monkeypatch, "audit", *quick, "--workers", 1, *arguments)


def test_json_on_stdout_is_the_file(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle_dir: Path,
    tmp_path: Path,
) -> None:
    file = tmp_path / "report.json"
    folder = tiny_bundle_dir / "mnist"
    assert audit(monkeypatch, folder, "--format", "json", "--output", file, "--seed", 5) == 0
    printed = capsys.readouterr().out
    assert printed == file.read_text()
    result = AuditDocument.model_validate_json(printed).result
    assert (result.identity.n, result.identity.seed, result.threat.epsilon) == (6, 5, 0.1)


def test_a_bundle_is_found_by_name_and_the_table_shows_every_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_bundle_dir: Path
) -> None:
    assert audit(monkeypatch, "mnist", "--models-dir", tiny_bundle_dir) == 0
    printed = capsys.readouterr().out
    for words in ("clean", "grey_box", "white_box", "FGSM", "PGD-20", "worst case", "not a proof"):
        assert words in printed


def test_knowledge_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_bundle_dir: Path
) -> None:
    chosen = ("--knowledge", "white_box", "--format", "json")
    assert audit(monkeypatch, tiny_bundle_dir / "mnist", *chosen) == 0
    report = json.loads(capsys.readouterr().out)["result"]
    assert [line["knowledge"] for line in report["lines"]] == ["white_box", "white_box"]


def test_a_file_can_hold_any_field_and_flags_win(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle_dir: Path,
    tmp_path: Path,
) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps({"attacks": [{"name": "noise", "draws": 2}], "samples": 99}))
    chosen = ("--spec", file, "--format", "json")
    assert audit(monkeypatch, tiny_bundle_dir / "mnist", *chosen) == 0
    spec = json.loads(capsys.readouterr().out)["result"]["spec"]
    assert [attack["name"] for attack in spec["attacks"]] == ["noise"]
    assert spec["samples"] == 6


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nothing"], "bundle_missing", "nothing"),
        (["mnist", "--epsilon", "-1"], "audit_spec_invalid", "threat.epsilon"),
        (["mnist", "--preset", "slow"], "audit_spec_invalid", "paper, quick"),
        (["mnist", "--dataset", "mnits"], "dataset_unknown", "mnist:test"),
        (["mnist", "--dataset", "mnist:test"], "dataset_missing", "fend data fetch mnist"),
        (["mnist", "--output", "no/such/report.json"], "audit_spec_invalid", "--output"),
        (["mnist", "--spec", "no-such.json"], "audit_spec_invalid", "--spec"),
    ],
)
def test_an_error_is_one_line_with_its_code(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle_dir: Path,
    tmp_path: Path,
    arguments: list[str],
    code: str,
    says: str,
) -> None:
    places = ("--models-dir", tiny_bundle_dir, "--data-dir", tmp_path)
    assert audit(monkeypatch, *places, *arguments) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error [{code}]: ")
    assert says in line


def test_bundles_can_be_inspected_and_verified(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle_dir: Path,
    tmp_path: Path,
) -> None:
    folder = tiny_bundle_dir / "mnist"
    assert fend(monkeypatch, "bundle", "inspect", folder) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert fend(monkeypatch, "bundle", "verify", folder) == 0
    assert manifest["version"] in capsys.readouterr().out
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "classifier.safetensors").open("ab") as weights:
        weights.write(b"\0")
    assert fend(monkeypatch, "bundle", "verify", tmp_path) == 2
    assert "error [bundle_corrupt]" in capsys.readouterr().err


def test_help_lists_every_command_and_does_not_wait_for_torch() -> None:
    code = """
import sys
sys.argv = ["fend", "--help"]
from fend.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("audit", "bundle", "data", "serve", "train"):
        assert command in done.stdout
