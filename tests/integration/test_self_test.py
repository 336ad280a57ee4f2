"""The auditor against models that only look robust, and against honest ones."""

import sys
from pathlib import Path

import pytest
import torch

from fend.attacks import PGD
from fend.audit import AuditJob, audit_report
from fend.audit.self_test import CONTROLS, UNSECURED, ControlResult, save_control, self_test
from fend.audit.spec import AuditSpec
from fend.bundles import load_bundle
from fend.cli.main import main
from fend.datasets import load

DIGITS = "rendered-digits"


@pytest.fixture(scope="module")
def findings(tiny_bundle_dir: Path) -> dict[str, ControlResult]:
    found = self_test(tiny_bundle_dir / "mnist", None, dataset=DIGITS, samples=12)
    return {finding.name: finding for finding in found}


@pytest.mark.parametrize("control", [control.name for control in CONTROLS])
def test_a_known_bad_model_is_exposed(findings: dict[str, ControlResult], control: str) -> None:
    finding = findings[control]
    assert finding.passed, finding.report.verdict
    assert not finding.honest


@pytest.mark.parametrize("name", ["mnist", UNSECURED.name])
def test_an_honest_model_is_not_accused(findings: dict[str, ControlResult], name: str) -> None:
    finding = findings[name]
    assert finding.passed, finding.report.verdict
    assert finding.honest


def test_a_wrapped_classifier_is_as_weak_as_the_one_inside(findings):
    alone = findings[UNSECURED.name].report
    for name in ("gradient-killer", "cut-graph", "nan-gradient", "scaled-logits"):
        finding = findings[name]
        assert finding.report.clean.defended.correct == alone.clean.defended.correct
        assert finding.true_accuracy == pytest.approx(alone.worst_case.accuracy, abs=0.15)
        assert finding.true_accuracy < 0.5 * alone.clean.defended.accuracy


def test_an_auditor_that_does_not_look_would_be_caught(tiny_bundle_dir, tmp_path):
    """One attack and no sanity checks: the control keeps every answer and must not pass."""
    bundle = load_bundle(tiny_bundle_dir / "mnist")
    [killer] = [control for control in CONTROLS if control.name == "gradient-killer"]
    spec = AuditSpec(
        model=killer.name,
        dataset=DIGITS,
        samples=8,
        knowledge=["white_box"],
        attacks=[PGD(steps=3)],
        sanity_samples=0,
    )
    report = audit_report(AuditJob(spec, save_control(bundle, killer, tmp_path)))
    report = report.model_copy(update={"reliable": True})
    assert report.worst_case.correct == report.clean.defended.correct
    assert not ControlResult(killer.name, killer.about, report, true_accuracy=0.1).passed
    assert ControlResult(
        killer.name, killer.about, report, report.worst_case.accuracy - 0.04
    ).passed


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_a_control_is_a_bundle_like_any_other(tiny_bundle_dir, tmp_path, control):
    bundle = load_bundle(tiny_bundle_dir / "mnist")
    loaded = load_bundle(save_control(bundle, control, tmp_path))
    pixels = load(DIGITS, None).pixels(slice(0, 50))
    with torch.no_grad():
        alone = bundle.defence.classifier(pixels).argmax(1)
        agreed = loaded.defence(pixels).argmax(1) == alone
    assert float(agreed.float().mean()) > 0.6
    assert "not a defence" in loaded.manifest.about["summary"]


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fend", "audit", "self-test", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_the_command_ends_with_1_and_says_which_model_came_out_wrong(
    monkeypatch, capsys, tiny_bundle_dir, tmp_path
):
    """A control is given as the honest bundle, and is rightly accused."""
    bundle = load_bundle(tiny_bundle_dir / "mnist")
    folder = save_control(bundle, CONTROLS[0], tmp_path)
    chosen = ("--dataset", DIGITS, "--samples", 4, "--control", "nan-gradient")
    assert run_cli(monkeypatch, "--model", folder, *chosen) == 1
    printed = capsys.readouterr().out
    assert "gradient-killer is honest, but was called unreliable" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--model", "nothing"], "nothing"), (["--control", "good"], "nan-gradient")],
)
def test_the_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    arguments: list[str], says: str,
) -> None:  # fmt: skip
    assert run_cli(monkeypatch, *arguments, "--models-dir", tmp_path) not in (0, 1)
    assert says in capsys.readouterr().err
