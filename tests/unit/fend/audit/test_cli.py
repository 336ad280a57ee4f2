"""The `fend` command as a person meets it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fend.audit import (
    PRESETS,
    ROWS,
    AuditDocument,
    build_report,
    from_request,
    open_audit,
    source_of,
    to_markdown,
)
from fend.bundles import load_bundle, save_bundle
from fend.cli.main import main
from fend.models import build

FGSM_SPEC = from_request(
    {"model": "mnist", "dataset": "rendered-digits", "attacks": [{"name": "fgsm"}],
     "sanity_samples": 0, "examples": 0}
)  # fmt: skip


def fend(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fend", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What is kept of stopped audits is kept in the folder that somebody is in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A request without probes, which other tests are about."""
    file = tmp_path_factory.mktemp("request") / "small.json"
    file.write_text(json.dumps({"sanity_samples": 0, "examples": 1}))
    return file


def audit(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    quick = ("--dataset", "rendered-digits", "--samples", 6, "--epsilon", 0.1, "--device", "cpu")
    return fend(monkeypatch, "audit", *quick, "--workers", 1, *arguments)


def test_json_on_stdout_is_the_file(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle_dir: Path,
    tmp_path: Path,
    small: Path,
) -> None:
    file = tmp_path / "report.json"
    folder = tiny_bundle_dir / "mnist"
    written = ("--spec", small, "--format", "json", "--output", file)
    assert audit(monkeypatch, folder, *written, "--seed", 5) == 0
    printed = capsys.readouterr().out
    assert printed == file.read_text()
    result = AuditDocument.model_validate_json(printed).result
    assert (result.identity.n, result.identity.seed, result.threat.epsilon) == (6, 5, 0.1)


def test_a_bundle_is_found_by_name_and_the_table_shows_every_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_bundle_dir: Path
) -> None:
    assert audit(monkeypatch, "mnist", "--models-dir", tiny_bundle_dir) == 0
    printed = capsys.readouterr().out
    for words in (
        "clean",
        "grey_box",
        "white_box",
        "FGSM",
        "PGD-20",
        "worst case",
        "checks of the attacks passed",
        "Preset: quick, a quick look",
    ):
        assert words in printed


def test_reports_and_rows_are_written_by_what_the_file_is_called(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle_dir: Path,
    tmp_path: Path,
    small: Path,
) -> None:
    rows, page = tmp_path / "rows.jsonl", tmp_path / "report.html"
    common = (tiny_bundle_dir / "mnist", "--spec", small)
    written = ("--output", page, "--rows", rows)
    assert audit(monkeypatch, *common, *written, "--format", "markdown") == 0
    markdown = capsys.readouterr().out
    assert markdown.startswith("# Robustness of mnist")
    assert page.read_text().lstrip().lower().startswith("<!doctype html>")
    text = tmp_path / "report.md"
    assert audit(monkeypatch, *common, "--output", text, "--format", "html") == 0
    assert capsys.readouterr().out.lower().startswith("<!doctype html>")
    assert text.read_text() == markdown
    lines = rows.read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds.count("clean") == 6
    assert {"attack", "cost", "example"} <= set(kinds)
    report = build_report(
        from_request({"preset": "quick", "model": "mnist", "dataset": "rendered-digits",
                      "samples": 6, "threat": {"epsilon": 0.1}, "sanity_samples": 0,
                      "examples": 1}),
        source_of(open_audit(FGSM_SPEC, tiny_bundle_dir / "mnist", None)),
        ROWS.validate_json(f"[{','.join(lines)}]"),
    )  # fmt: skip
    assert to_markdown(report) == markdown, "the rows are enough to make the report again"


def test_a_surrogate_can_be_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle_dir: Path,
    tmp_path: Path,
) -> None:
    models = tmp_path / "models"
    shutil.copytree(tiny_bundle_dir, models)
    other = load_bundle(models / "mnist").manifest.content
    torch.manual_seed(1)
    save_bundle(
        models / "other",
        name="other",
        input_spec=other.input,
        labels=other.labels,
        denoiser=("identity", {}, build("identity", {})),
        classifier=("paper-lenet", {}, build("paper-lenet", {})),
        suspicion=other.suspicion,
        about={},
        card="",
    )
    spec = tmp_path / "request.json"
    spec.write_text(json.dumps({"attacks": [{"name": "fgsm"}], "sanity_samples": 0}))
    chosen = ("--knowledge", "black_box", "--spec", spec, "--models-dir", models)
    assert audit(monkeypatch, "mnist", *chosen, "--surrogate", "other", "--format", "json") == 0
    identity = json.loads(capsys.readouterr().out)["result"]["identity"]
    assert identity["surrogate"] == "other"
    assert audit(monkeypatch, "mnist", *chosen, "--surrogate", "another") == 2
    assert "error [surrogate_missing]" in capsys.readouterr().err


def test_other_commands_stand_beside_a_models_name(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle_dir: Path,
    tmp_path: Path,
    small: Path,
) -> None:
    shutil.copytree(tiny_bundle_dir / "mnist", tmp_path / "diff")
    assert fend(monkeypatch, "audit", "diff", "a.json", "b.json") == 2
    assert "error [report_unreadable]: a.json" in capsys.readouterr().err
    assert fend(monkeypatch, "audit", "self-test", "--help") == 0
    assert "--samples" in capsys.readouterr().out
    assert fend(monkeypatch, "audit", "run", "--help") == 0
    assert "--surrogate" in capsys.readouterr().out
    assert fend(monkeypatch, "audit", "--help") == 0
    listed = capsys.readouterr().out
    assert all(word in listed for word in ("diff", "self-test", "run"))
    options = ("--dataset", "rendered-digits", "--samples", 2, "--workers", 1, "--spec", small)
    places = ("--models-dir", tmp_path, "--format", "json", "--device", "cpu")
    assert fend(monkeypatch, "audit", "run", "diff", *options, *places) == 0
    assert json.loads(capsys.readouterr().out)["result"]["identity"]["n"] == 2


def test_knowledge_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle_dir: Path,
    small: Path,
) -> None:
    chosen = ("--spec", small, "--knowledge", "white_box", "--format", "json")
    assert audit(monkeypatch, tiny_bundle_dir / "mnist", *chosen) == 0
    report = json.loads(capsys.readouterr().out)["result"]
    assert {line["knowledge"] for line in report["lines"]} == {"white_box"}
    assert len(report["lines"]) == len(PRESETS["quick"]["attacks"])


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


def test_a_file_that_cannot_be_written_in_the_end_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle_dir: Path,
    tmp_path: Path,
    small: Path,
) -> None:
    asked = (tiny_bundle_dir / "mnist", "--spec", small, "--format", "json")
    assert audit(monkeypatch, *asked, "--rows", "/dev/full") == 2
    told = capsys.readouterr()
    assert AuditDocument.model_validate_json(told.out).result.identity.n == 6
    assert "error [output_unwritable]: /dev/full" in told.err
    assert audit(monkeypatch, *asked, "--rows", "rows.jsonl") == 0
    again = capsys.readouterr()
    assert "6 of 6 images were done before" in again.err
    assert json.loads(again.out)["result"] == json.loads(told.out)["result"]
    assert (tmp_path / "rows.jsonl").read_text().count('"kind":"clean"') == 6
    assert not list((tmp_path / ".fend/audits").iterdir())


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_stopped_audit_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_bundle_dir: Path,
    tmp_path: Path,
    number: signal.Signals,
    workers: int,
) -> None:
    spec = {"dataset": "rendered-digits", "samples": 6, "shard_size": 1, "sanity_samples": 0,
            "examples": 0, "knowledge": ["white_box"],
            "attacks": [{"name": "pgd", "steps": 60, "early_stop": False}]}  # fmt: skip
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    command = [
        "audit", str(tiny_bundle_dir / "mnist"), "--spec", "spec.json", "--device", "cpu",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", "from fend.cli.main import main; main()", *command,
         "--workers", str(workers)],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    kept = tmp_path / ".fend/audits"
    while process.poll() is None and not list(kept.glob("*/shard-*.json")):
        time.sleep(0.01)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    assert "the same command goes on" in said
    (tmp_path / "elsewhere").mkdir()
    for folder in (".fend/audits", "elsewhere"):
        rows = f"{folder.replace('/', '-')}.jsonl"
        kept_in = ("--work-dir", folder, "--workers", 1, "--rows", rows)
        assert fend(monkeypatch, *command, *kept_in) == 0
        assert ("were done before" in capsys.readouterr().err) is (folder != "elsewhere")
        assert not list((tmp_path / folder).iterdir())
    assert (tmp_path / ".fend-audits.jsonl").read_bytes() == (
        tmp_path / "elsewhere.jsonl"
    ).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["nothing"], "bundle_missing", "nothing"),
        (["mnist", "--epsilon", "-1"], "audit_spec_invalid", "threat.epsilon"),
        (["mnist", "--epsilon", "8"], "audit_spec_invalid", '"8/255"'),
        (["mnist", "--preset", "quik"], "audit_spec_invalid", "did you mean 'quick'"),
        (["mnist", "--preset", "slow"], "audit_spec_invalid", "paper, quick"),
        (["mnist", "--dataset", "mnits"], "dataset_unknown", "mnist:test"),
        (["mnist", "--dataset", "mnist:test"], "dataset_missing", "fend data fetch mnist"),
        (["mnist", "--output", "no/such/report.json"], "output_unwritable", "--output"),
        (["mnist", "--rows", "no/such/rows.jsonl"], "output_unwritable", "--rows"),
        (["mnist", "--output", "report.pdf"], "audit_spec_invalid", ".html, .htm, .md"),
        (["mnist", "--output", "report"], "audit_spec_invalid", ".html, .htm, .md"),
        (["mnist", "--output", "x.json", "--rows", "x.json"], "audit_spec_invalid", "--rows"),
        (["mnist", "--rows", "/"], "output_unwritable", "is a folder"),
        (["mnist", "--rows", f"{__file__}/rows.jsonl"], "output_unwritable", "no folder"),
        (["mnist", "--rows", "/proc/rows.jsonl"], "output_unwritable", "cannot be written"),
        (["mnist", "--surrogate", "other"], "audit_spec_invalid", "surrogate"),
        (
            ["mnist", "--url", "http://127.0.0.1:1", "--token-file", "no"],
            "token_missing",
            "--token-file",
        ),
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
