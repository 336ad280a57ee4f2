"""What a report says, from rows made by hand."""

import random

import audit_rows
import pytest

from fend.audit import PRESETS, ROWS, Report, Row, build_report, to_markdown
from fend.audit.render.html import to_html
from fend.audit.render.terminal import show
from fend.audit.rows import AttackRow, CleanRow, CurveRow, ExampleRow, Probe, ProbeRow, ServedRow
from fend.errors import Invalid
from fend.threat import Knowledge

GREY, WHITE, QUERY = Knowledge.GREY_BOX, Knowledge.WHITE_BOX, Knowledge.QUERY


def test_the_worst_case_is_per_sample_not_the_lowest_accuracy():
    """auto-attack #45: the average over attacks taken for the result."""
    # Each attack breaks another half: every average says 50 %, and nothing holds.
    rows = audit_rows.AuditRows(knowledge=(WHITE,), n=4)
    report = rows.breaks((WHITE, 0), {0, 1}).breaks((WHITE, 1), {2, 3}).report()
    assert [line.defended.accuracy for line in report.lines] == [0.5, 0.5]
    assert report.worst_case.accuracy == 0.0
    assert report.worst_case_by_knowledge[WHITE].correct == 0


def test_levels_are_united_overall_but_white_box_is_what_is_quoted():
    rows = audit_rows.AuditRows(n=10).breaks((GREY, 1), {0}).breaks((WHITE, 0), {1, 2})
    report = rows.report()
    by_knowledge = {level: share.correct for level, share in report.worst_case_by_knowledge.items()}
    assert by_knowledge == {GREY: 9, WHITE: 8}
    assert report.worst_case.correct == 7
    assert report.headline.knowledge is WHITE
    assert report.headline.accuracy.correct == 8
    assert report.verdict.index("80.0 %") < report.verdict.index("70.0 %")
    assert [line.worst_case.correct for line in report.classes] == [0, 0, 0] + 7 * [1]
    assert report.classes[1].label == "one"


def test_without_white_box_the_verdict_says_so():
    report = audit_rows.AuditRows(knowledge=(GREY,), n=10).breaks((GREY, 0), {1}).report()
    assert report.headline.knowledge is None
    assert report.headline.accuracy == report.worst_case
    assert "add white_box" in report.verdict


def test_an_image_that_is_wrong_clean_is_lost_even_if_an_attack_rights_it():
    report = audit_rows.AuditRows(n=2).errs({0}).report()
    assert report.clean.defended.correct == 1
    assert [line.defended.correct for line in report.lines] == [1, 1, 1, 1]
    assert report.worst_case.correct == 1
    assert report.clean.wrong == report.lines[0].wrong == report.wrong_by_knowledge[WHITE] == "0"


def test_no_answer_is_a_wrong_answer_and_is_told():
    rows = audit_rows.AuditRows(n=2)
    rows.change(AttackRow, [1], key=(WHITE, 0), answer=None, confidence=None)
    report = rows.report()
    assert [line.not_finite for line in report.lines] == [0, 0, 1, 0]
    assert report.worst_case.correct == 1
    assert "1 answers were NaN or infinite" in to_markdown(report)


def test_a_skipped_image_counts_as_broken_before():
    rows = audit_rows.AuditRows(n=10, cascade=True).breaks((WHITE, 0), {1, 2})
    report = rows.skips((WHITE, 1), {1, 2}).breaks((WHITE, 1), {3}).report()
    last = report.lines[3]
    assert (last.attacked, last.skipped) == (8, 2)
    assert (last.defended.correct, last.defended.n) == (7, 10)
    assert last.undefended is None  # of the hard images alone it would mean something else
    assert last.wrong == "1-3"
    assert report.worst_case_by_knowledge[WHITE].correct == 7
    assert "(8 tried)" in to_markdown(report)


def test_rows_in_any_order_and_through_json_give_the_same_bytes():
    made = audit_rows.AuditRows(n=20, epsilons=(0.0, 0.2), examples=3)
    made.breaks((WHITE, 1), {3, 4, 11}).shows((WHITE, 1), range(6)).serves((GREY, 0), range(5), [])
    expected = made.report()
    for seed in range(5):
        shuffled = ROWS.validate_json(ROWS.dump_json(made.rows))
        random.Random(seed).shuffle(shuffled)
        report = build_report(made.spec, made.source, shuffled)
        assert report.model_dump_json() == expected.model_dump_json()
        assert to_markdown(report) == to_markdown(expected)
    assert Report.model_validate_json(expected.model_dump_json()) == expected


def test_the_cost_of_all_shards_is_summed():
    report = audit_rows.AuditRows(n=1).report()
    assert (report.lines[0].forward_passes, report.lines[0].backward_passes) == (10, 6)
    assert (report.identity.forward_passes, report.identity.backward_passes) == (40, 24)


def test_what_happened_inside_an_attack_is_counted():
    rows = audit_rows.AuditRows(n=10)
    rows.change(AttackRow, [0], key=(WHITE, 1), seen_fooled=True)
    rows.change(AttackRow, [1, 2], key=(WHITE, 1), zero_gradient=True, distance=0.1)
    rows.change(AttackRow, [3, 4, 5], key=(WHITE, 1), broken_gradient=True)
    rows.change(AttackRow, range(4), key=(WHITE, 1), late_gain=0.5)
    line = rows.report().lines[3]
    counts = (line.silent_successes, line.zero_gradients, line.broken_gradients, line.unfinished)
    assert counts == (1, 2, 3, 4)
    assert line.mean_distance == pytest.approx(0.18)
    assert line.max_distance == 0.2
    assert line.mean_confidence == pytest.approx(0.5)


def test_the_curve_counts_images_that_are_right_clean_too():
    rows = audit_rows.AuditRows(n=10, epsilons=(0.3, 0.0)).errs({0}).bends(0.3, {1, 2})
    report = rows.report()
    assert [(p.epsilon, p.defended.correct, p.defended.n) for p in report.curve] == [
        (0.0, 9, 10),
        (0.3, 7, 10),
    ]
    assert report.curve[1].epsilon_255 == 76.5
    assert "## Accuracy against epsilon" in to_markdown(report)


def test_served_answers_are_compared():
    rows = audit_rows.AuditRows(n=10).serves((WHITE, 1), range(8), other=[2])
    rows.change(ServedRow, [3], answer=9)  # fooled in the audit, right when served
    report = rows.report()
    assert (report.served.agreed.correct, report.served.agreed.n) == (6, 8)
    assert (report.served.broken, report.served.still_broken) == (1, 0)


def test_examples_show_what_was_broken_first():
    rows = audit_rows.AuditRows(n=20, examples=3).breaks((WHITE, 1), {7}).breaks((GREY, 0), {9})
    for key in ((GREY, 0), (WHITE, 1)):
        rows.shows(key, range(10))
    report = rows.report()
    assert [(e.index, e.knowledge, e.title) for e in report.examples] == [
        (7, WHITE, "PGD-20"),
        (9, GREY, "FGSM"),
        (0, WHITE, "PGD-20"),
    ]
    assert (report.examples[0].clean_answer, report.examples[0].answer) == (7, 8)
    assert report.without_pictures().examples == ()
    assert report.without_pictures().worst_case == report.worst_case


@pytest.mark.parametrize("kind", [CleanRow, AttackRow])
def test_missing_rows_are_refused(kind: type[Row]) -> None:
    made = audit_rows.AuditRows(n=2)
    position = next(p for p, row in enumerate(made.rows) if isinstance(row, kind))
    del made.rows[position]
    with pytest.raises(Invalid):
        made.report()


@pytest.mark.parametrize("kind", [CleanRow, AttackRow, ProbeRow, CurveRow, ExampleRow, ServedRow])
def test_doubled_rows_are_refused(kind: type[Row]) -> None:
    made = audit_rows.AuditRows(n=2, epsilons=(0.1,))
    made.shows((WHITE, 0), [1]).serves((WHITE, 0), [1], [])
    made.rows.append(next(row for row in made.rows if isinstance(row, kind)))
    with pytest.raises(Invalid, match="more than one"):
        made.report()


@pytest.mark.parametrize(
    "row",
    [
        ProbeRow(probe=Probe.NOISE, index=9, passed=True),
        CurveRow(index=0, label=0, epsilon=0.7, answer=0, undefended_answer=0),
        ExampleRow(index=9, knowledge=WHITE, attack=0, clean_png="", adversarial_png="",
                   denoised_png=""),
        ServedRow(index=0, label=0, knowledge=QUERY, attack=0, answer=0, served_answer=0),
    ],
)  # fmt: skip
def test_rows_of_another_audit_are_refused(row: Row) -> None:
    made = audit_rows.AuditRows(n=2, probed=False)
    made.rows.append(row)
    with pytest.raises(Invalid):
        made.report()


def test_an_image_may_be_skipped_only_once_it_is_broken():
    rows = audit_rows.AuditRows(n=10, cascade=True).breaks((WHITE, 0), {1})
    with pytest.raises(Invalid, match="skips"):
        rows.skips((WHITE, 1), {1, 2}).report()


def test_no_rows_are_no_report():
    made = audit_rows.AuditRows(n=1)
    with pytest.raises(Invalid):
        build_report(made.spec, made.source, [])


def test_the_verdict_promises_nothing():
    report = audit_rows.AuditRows(knowledge=(WHITE,)).breaks((WHITE, 1), range(50)).report()
    assert report.reliable is True
    assert report.verdict.startswith("An upper bound on robustness, not a proof: 50.0 %")
    for words in ("of 100 images", "Linf, epsilon 0.2 = 51/255", "can only lower"):
        assert words in report.verdict


def test_markdown_tables_survive_a_bar_in_a_name():
    text = to_markdown(audit_rows.AuditRows(n=10).report())
    assert "made\\|up" in text
    assert "| white_box | PGD-20 | denoiser + classifier | 100.0 % |" in text


def test_names_cannot_become_markup_in_markdown():
    """A label or a data set's name may be an uploader's: Markdown renders HTML and images."""
    evil = "<script>alert(1)</script> & ![](http://evil.test) |\n# x\\ *a* _b_ `c` \x1b[31m \u202e"
    rows = audit_rows.AuditRows(n=10)
    rows.source = rows.source.model_copy(
        update={"model": evil, "dataset": evil, "label_names": (evil,) * 10}
    )
    text = to_markdown(rows.report())
    escaped = (
        "&lt;script&gt;alert(1)&lt;/script&gt; &amp; !\\[\\](http&#58;//evil.test) \\| # x\\\\ "
        "\\*a\\* \\_b\\_ \\`c\\` \ufffd\\[31m \ufffd"
    )
    assert text.startswith(f"# Robustness of {escaped}\n")
    assert f"| {escaped} | 1 | 100.0 % |" in text
    assert "<script" not in text
    assert "![" not in text


def test_markdown_shows_failed_checks_with_what_to_do():
    rows = audit_rows.AuditRows().change(AttackRow, range(100), zero_gradient=True)
    text = to_markdown(rows.report())
    assert text.index("Unreliable") < text.index("| gradients are not zero | **FAIL** |")
    assert "dlr loss, BPDA" in text


def test_the_result_is_said_in_a_word(capsys):
    for broken, word in ((0, "Holds"), (50, "Partly holds"), (95, "Falls"), (100, "Falls")):
        report = audit_rows.AuditRows().breaks((WHITE, 1), range(broken)).report()
        assert report.reliable
        show(report)
        for text in (to_html(report), to_markdown(report), capsys.readouterr().out):
            assert word in text
            assert "Checks passed" not in text
            assert ("can only lower this" in " ".join(text.split())) is (broken < 100)
        assert ('class="headline falls"' in to_html(report)) is (word == "Falls")


def test_the_preset_is_on_the_first_screen(capsys):
    made = audit_rows.AuditRows(PRESETS["quick"]["attacks"], preset="quick", samples=7)
    report = made.report()
    show(report)
    for text in (to_html(report), to_markdown(report), capsys.readouterr().out):
        said = " ".join(text.split())
        assert "quick, a quick look: few images" in said
        assert "changed: samples 7" in said
    assert report.spec.preset == "quick"


def test_names_cannot_control_a_terminal(capsys):
    report = audit_rows.AuditRows(n=2).report()
    evil = "[red]\x1b]0;owned\x07\r\u202e"
    line = report.lines[0].model_copy(update={"gradient_through": evil})
    show(report.model_copy(update={"lines": (line,), "verdict": evil}))
    printed = capsys.readouterr().out
    assert "[red]" in printed
    assert not {"\x07", "\r", "\u202e", "\x1b"} & set(printed)
