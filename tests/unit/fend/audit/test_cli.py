"""The `fend` command as a person meets it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from small_bundles import save

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
from fend.cli.main import main

FGSM_SPEC = from_request(
    {"model": "mnist", "dataset": "rendered-digits", "attacks": [{"name": "fgsm"}],
     "sanity_samples": 0, "examples": 0}
)  # fmt: skip


@pytest.fixture
def fend(monkeypatch, capsys, tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in `tmp_path`, where what is kept of stopped audits is: its exit code, and
    what it wrote to stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fend", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        told = capsys.readouterr()
        return int(exit_.value.code or 0), told.out, told.err

    return run


@pytest.fixture
def audit(fend) -> Callable[..., tuple[int, str, str]]:
    quick = ("--dataset", "rendered-digits", "--samples", 6, "--epsilon", 0.1, "--device", "cpu")
    return partial(fend, "audit", *quick, "--workers", 1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A request without probes, which other tests are about."""
    file = tmp_path_factory.mktemp("request") / "small.json"
    file.write_text(json.dumps({"sanity_samples": 0, "examples": 1}))
    return file


def test_json_on_stdout_is_the_file(audit, tiny_bundle_dir, small):
    written = ("--spec", small, "--format", "json", "--output", "report.json")
    code, printed, _ = audit(tiny_bundle_dir / "mnist", *written, "--seed", 5)
    assert (code, printed) == (0, Path("report.json").read_text())
    result = AuditDocument.model_validate_json(printed).result
    assert (result.identity.n, result.identity.seed, result.threat.epsilon) == (6, 5, 0.1)


def test_a_bundle_is_found_by_name_and_the_table_shows_every_line(audit, tiny_bundle_dir):
    code, printed, _ = audit("mnist", "--models-dir", tiny_bundle_dir)
    assert code == 0
    for words in ("clean", "grey_box", "white_box", "FGSM", "PGD-20", "worst case",
                  "checks of the attacks passed", "Preset: quick, a quick look"):  # fmt: skip
        assert words in printed


def test_reports_and_rows_are_written_by_what_the_file_is_called(audit, tiny_bundle_dir, small):
    common = (tiny_bundle_dir / "mnist", "--spec", small)
    written = ("--output", "report.html", "--rows", "rows.jsonl")
    code, markdown, _ = audit(*common, *written, "--format", "markdown")
    assert code == 0
    assert markdown.startswith("# Robustness of mnist")
    assert Path("report.html").read_text().lstrip().lower().startswith("<!doctype html>")
    code, page, _ = audit(*common, "--output", "report.md", "--format", "html")
    assert code == 0
    assert page.lower().startswith("<!doctype html>")
    assert Path("report.md").read_text() == markdown
    lines = Path("rows.jsonl").read_text().splitlines()
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


def test_a_surrogate_can_be_named(audit, tiny_bundle_dir, tmp_path):
    models = tmp_path / "models"
    shutil.copytree(tiny_bundle_dir, models)
    torch.manual_seed(1)
    save(models / "other")
    Path("spec.json").write_text(json.dumps({"attacks": [{"name": "fgsm"}], "sanity_samples": 0}))
    chosen = ("--knowledge", "black_box", "--spec", "spec.json", "--models-dir", models)
    code, printed, _ = audit("mnist", *chosen, "--surrogate", "other", "--format", "json")
    assert code == 0
    assert json.loads(printed)["result"]["identity"]["surrogate"] == "other"
    code, _, told = audit("mnist", *chosen, "--surrogate", "another")
    assert code == 2
    assert "error [surrogate_missing]" in told


def test_other_commands_stand_beside_a_models_name(fend, tiny_bundle_dir, tmp_path, small):
    shutil.copytree(tiny_bundle_dir / "mnist", tmp_path / "diff")
    code, _, told = fend("audit", "diff", "a.json", "b.json")
    assert code == 2
    assert "error [report_unreadable]: a.json" in told
    for words, shown in (("self-test", "--samples"), ("run", "--surrogate"), ("", "self-test")):
        code, printed, _ = fend("audit", *words.split(), "--help")
        assert code == 0
        assert shown in printed
    assert all(word in printed for word in ("diff", "run"))
    options = ("--dataset", "rendered-digits", "--samples", 2, "--workers", 1, "--spec", small)
    places = ("--models-dir", tmp_path, "--format", "json", "--device", "cpu")
    code, printed, _ = fend("audit", "run", "diff", *options, *places)
    assert (code, json.loads(printed)["result"]["identity"]["n"]) == (0, 2)


def test_knowledge_can_be_chosen(audit, tiny_bundle_dir, small):
    chosen = ("--spec", small, "--knowledge", "white_box", "--format", "json")
    code, printed, _ = audit(tiny_bundle_dir / "mnist", *chosen)
    assert code == 0
    lines = json.loads(printed)["result"]["lines"]
    assert {line["knowledge"] for line in lines} == {"white_box"}
    assert len(lines) == len(PRESETS["quick"]["attacks"])


def test_a_file_can_hold_any_field_and_flags_win(audit, tiny_bundle_dir):
    asked = {"attacks": [{"name": "noise", "draws": 2}], "samples": 99}
    Path("spec.json").write_text(json.dumps(asked))
    code, printed, _ = audit(tiny_bundle_dir / "mnist", "--spec", "spec.json", "--format", "json")
    assert code == 0
    spec = json.loads(printed)["result"]["spec"]
    assert [attack["name"] for attack in spec["attacks"]] == ["noise"]
    assert spec["samples"] == 6


def test_a_file_that_cannot_be_written_in_the_end_loses_nothing(audit, tiny_bundle_dir, small):
    asked = (tiny_bundle_dir / "mnist", "--spec", small, "--format", "json")
    code, first, told = audit(*asked, "--rows", "/dev/full")
    assert code == 2
    assert AuditDocument.model_validate_json(first).result.identity.n == 6
    assert "error [output_unwritable]: /dev/full" in told
    code, again, told = audit(*asked, "--rows", "rows.jsonl")
    assert code == 0
    assert "6 of 6 images were done before" in told
    assert json.loads(again)["result"] == json.loads(first)["result"]
    assert Path("rows.jsonl").read_text().count('"kind":"clean"') == 6
    assert not list(Path(".fend/audits").iterdir())


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_stopped_audit_goes_on_where_it_was(fend, tiny_bundle_dir, tmp_path, number, workers):
    spec = {"dataset": "rendered-digits", "samples": 6, "shard_size": 1, "sanity_samples": 0,
            "examples": 0, "knowledge": ["white_box"],
            "attacks": [{"name": "pgd", "steps": 60, "early_stop": False}]}  # fmt: skip
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    command = ["audit", tiny_bundle_dir / "mnist", "--spec", "spec.json", "--device", "cpu"]
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
        code, _, told = fend(*command, *kept_in)
        assert (code, "were done before" in told) == (0, folder != "elsewhere")
        assert not list((tmp_path / folder).iterdir())
    kept, anew = (tmp_path / f"{name}.jsonl" for name in (".fend-audits", "elsewhere"))
    assert kept.read_bytes() == anew.read_bytes()


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
        (["mnist", "--url", "http://[::1]:1", "--token-file", "no"], "token_missing", "-file"),
        (["mnist", "--spec", "no-such.json"], "audit_spec_invalid", "--spec"),
    ],
)
def test_an_error_is_one_line_with_its_code(
    audit, tiny_bundle_dir, tmp_path, arguments, code, says
):
    places = ("--models-dir", tiny_bundle_dir, "--data-dir", tmp_path)
    ended, _, told = audit(*places, *arguments)
    assert ended == 2
    [line] = told.splitlines()
    assert line.startswith(f"error [{code}]: ")
    assert says in line


def test_bundles_can_be_inspected_and_verified(fend, tiny_bundle_dir, tmp_path):
    folder = tiny_bundle_dir / "mnist"
    code, printed, _ = fend("bundle", "inspect", folder)
    assert code == 0
    version = json.loads(printed)["version"]
    code, printed, _ = fend("bundle", "verify", folder)
    assert code == 0
    assert version in printed
    shutil.copytree(folder, tmp_path / "mnist")
    with (tmp_path / "mnist/classifier.safetensors").open("ab") as weights:
        weights.write(b"\0")
    code, _, told = fend("bundle", "verify", tmp_path / "mnist")
    assert code == 2
    assert "error [bundle_corrupt]" in told
