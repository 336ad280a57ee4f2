"""Two reports side by side."""

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import audit_rows
import pytest
import typer

from fend.attacks import FGSM, PGD
from fend.audit import AuditDocument, Report, Timing
from fend.audit.render.diff import to_markdown
from fend.audit.report.diff import compare
from fend.audit.rows import AttackRow
from fend.cli.diff import diff, read_report
from fend.errors import Invalid
from fend.threat import Knowledge

GREY, WHITE = Knowledge.GREY_BOX, Knowledge.WHITE_BOX


def changes(before: Any, after: Any) -> dict[str, Any]:
    return {change.what: change for change in compare(before.report(), after.report()).changes}


def test_nothing_changed():
    found = compare(audit_rows.AuditRows().report(), audit_rows.AuditRows().report())
    assert found.paired
    assert not found.regressed
    assert found.differences == found.only_before == found.only_after == found.checks == ()
    assert {change.outcome for change in found.changes} == {"unclear"}
    assert [change.what for change in found.changes] == [
        "clean", "grey_box worst case", "white_box worst case", "worst case of all",
        "grey_box FGSM", "grey_box PGD-20", "white_box FGSM", "white_box PGD-20",
    ]  # fmt: skip


def test_the_same_images_are_compared_one_by_one():
    # 20 and 12 of 100 broken: as shares that may be chance, but 9 were righted and 1 was lost.
    before = audit_rows.AuditRows().breaks((WHITE, 1), range(20))
    after = audit_rows.AuditRows().breaks((WHITE, 1), [*range(11), 99])
    change = changes(before, after)["white_box worst case"]
    assert (change.gained, change.lost) == (9, 1)
    assert change.p_value == pytest.approx(22 / 1024)
    assert change.outcome == "better"
    assert changes(after, before)["white_box worst case"].outcome == "worse"
    assert changes(after, before)["clean"].outcome == "unclear"


def test_other_images_are_compared_as_shares():
    before = audit_rows.AuditRows(n=100).breaks((WHITE, 1), range(20))
    for broken, outcome in ((12, "unclear"), (60, "worse"), (0, "better")):
        after = audit_rows.AuditRows(n=101).breaks((WHITE, 1), range(broken))
        found = compare(before.report(), after.report())
        assert not found.paired
        assert "the images differ" in found.differences[0]
        change = changes(before, after)["worst case of all"]
        assert (change.gained, change.p_value) == (None, None)
        assert change.outcome == outcome


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"threat": {"epsilon": 0.1}}, "epsilon 0.1"),
        ({"threat": {"norm": "l2", "epsilon": 0.2}}, "L2"),
    ],
)
def test_other_threat_models_are_refused_or_told(fields, says):
    before, after = audit_rows.AuditRows().report(), audit_rows.AuditRows(**fields).report()
    with pytest.raises(Invalid, match=says):
        compare(before, after)
    found = compare(before, after, anyway=True)
    assert says in found.differences[0]
    assert says in to_markdown(found).split("| Before |")[0]


def test_other_data_is_refused_even_if_its_places_are_the_same():
    other = audit_rows.AuditRows()
    other.source = other.source.model_copy(update={"dataset_digest": "sha256:" + "2" * 64})
    with pytest.raises(Invalid, match="data sets differ"):
        compare(audit_rows.AuditRows().report(), other.report())
    assert not compare(audit_rows.AuditRows().report(), other.report(), anyway=True).paired


def test_attacks_without_counterpart_are_named():
    before = audit_rows.AuditRows((FGSM(), PGD(steps=20)), (WHITE,)).report()
    after = audit_rows.AuditRows((FGSM(), PGD(steps=20, step_size=0.1)), (WHITE,)).report()
    found = compare(before, after)
    assert found.only_before == ("white_box PGD-20",)
    assert found.only_after == ("white_box PGD-20 (step_size 0.1)",)
    assert "attacks differ" in found.differences[0]


def test_a_check_that_now_fails_is_a_regression():
    after = audit_rows.AuditRows().change(AttackRow, range(100), zero_gradient=True)
    found = compare(audit_rows.AuditRows().report(), after.report())
    assert found.regressed
    assert [(c.name, c.before, c.after) for c in found.checks] == [
        ("gradients are not zero", True, False)
    ]
    told = to_markdown(found)
    assert "pass → FAIL" in told
    assert "no evidence of robustness" in told
    back = compare(after.report(), audit_rows.AuditRows().report())
    assert not back.regressed


def save(path: Path, report: Report) -> Path:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    timing = Timing(started_at=now, finished_at=now, wall_time_s=0)
    path.write_text(AuditDocument(result=report, timing=timing).model_dump_json(indent=2))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    app = typer.Typer()
    app.command()(diff)
    monkeypatch.setattr(sys, "argv", ["diff", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit_:
        app()
    return int(exit_.value.code or 0)


def test_the_command_prints_and_can_fail_a_build(monkeypatch, capsys, tmp_path):
    old = save(tmp_path / "old.json", audit_rows.AuditRows().report())
    worse = audit_rows.AuditRows().breaks((WHITE, 1), range(30))
    new = save(tmp_path / "new.json", worse.report())
    assert run(monkeypatch, old, new) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Regressed: white_box worst case, worst case of all" in printed
    assert run(monkeypatch, old, new, "--fail-on-regression") == 1
    assert run(monkeypatch, new, old, "--fail-on-regression") == 0
    capsys.readouterr()
    assert run(monkeypatch, old, new, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["regressed"] is True
    assert run(monkeypatch, old, new, "--format", "markdown") == 0
    assert "| white_box PGD-20 | 100.0 % | 70.0 % |" in capsys.readouterr().out


def test_a_report_is_read_with_or_without_its_timing(tmp_path):
    report = audit_rows.AuditRows().report()
    assert read_report(save(tmp_path / "document.json", report)) == report
    (tmp_path / "alone.json").write_text(report.model_dump_json())
    assert read_report(tmp_path / "alone.json") == report


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("{", "cannot be read"),
        ("[]", "no report"),
        ("{}", "format None"),
        ('{"result": {"format": "fend-audit/1"}}', "run the audit again"),
        ('{"result": {"format": "fend-audit/2"}, "timing": {}}', "no whole report: result."),
        ('{"format": "fend-audit/2"}', "no whole report: verdict"),
    ],
)
def test_other_files_are_refused_with_a_reason(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(Invalid, match=says):
        read_report(path)
