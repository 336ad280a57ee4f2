"""Reports from rows made by hand."""

import random

import pytest

from fend.attacks import FGSM, PGD
from fend.audit import (
    ROWS,
    AttackRow,
    AuditRowsInvalid,
    AuditSpec,
    CleanRow,
    CostRow,
    Row,
    Source,
    build_report,
    to_markdown,
)
from fend.threat import Knowledge

SOURCE = Source(
    model="mnist",
    model_version="sha256:" + "0" * 64,
    dataset="made|up",
    dataset_digest="sha256:" + "1" * 64,
    label_names=("zero", "one"),
    fend_version="0",
    torch_version="0",
    device="cpu",
)


def spec_of(*knowledge: Knowledge) -> AuditSpec:
    return AuditSpec(model="mnist", knowledge=knowledge, attacks=(FGSM(), PGD(steps=3)))


WHITE = spec_of(Knowledge.WHITE_BOX)
BOTH = spec_of(Knowledge.GREY_BOX, Knowledge.WHITE_BOX)


def rows_of(
    spec: AuditSpec,
    labels: list[int],
    *,
    clean_wrong: set[int] = frozenset(),  # type: ignore[assignment]
    broken: dict[tuple[Knowledge, int], set[int]],
) -> list[Row]:
    """Rows where the answer is right but for the images (0, 1, ...) that are named."""

    def answer(index: int, wrong: set[int]) -> int:
        return 1 - labels[index] if index in wrong else labels[index]

    rows: list[Row] = [
        CleanRow(
            index=index,
            label=label,
            answer=answer(index, clean_wrong),
            confidence=0.9,
            undefended_answer=label,
            undefended_confidence=0.8,
        )
        for index, label in enumerate(labels)
    ]
    for knowledge in spec.knowledge:
        for attack in range(len(spec.attacks)):
            wrong = broken.get((knowledge, attack), set())
            rows += [
                AttackRow(
                    index=index,
                    label=label,
                    knowledge=knowledge,
                    attack=attack,
                    attack_name=spec.attacks[attack].name,
                    attacked_model_fooled=index in wrong,
                    answer=answer(index, wrong),
                    confidence=0.5,
                    undefended_answer=answer(index, wrong),
                    undefended_confidence=0.5,
                    distance=0.1 * (index + 1),
                )
                for index, label in enumerate(labels)
            ]
            rows += [
                CostRow(shard=s, knowledge=knowledge, attack=attack, forward_passes=5,
                        backward_passes=3)
                for s in range(2)
            ]  # fmt: skip
    return rows


def test_the_worst_case_is_per_sample_not_the_lowest_accuracy() -> None:
    # Each attack breaks another half: every average says 50 %, and nothing holds.
    rows = rows_of(
        WHITE,
        [0, 1, 0, 1],
        broken={(Knowledge.WHITE_BOX, 0): {0, 1}, (Knowledge.WHITE_BOX, 1): {2, 3}},
    )
    report = build_report(WHITE, SOURCE, rows)
    assert [line.defended.accuracy for line in report.lines] == [0.5, 0.5]
    assert report.worst_case.accuracy == 0.0
    assert report.worst_case_by_knowledge[Knowledge.WHITE_BOX].correct == 0


def test_knowledge_levels_are_united_overall() -> None:
    rows = rows_of(
        BOTH,
        [0, 1, 0, 1],
        broken={(Knowledge.GREY_BOX, 1): {0}, (Knowledge.WHITE_BOX, 0): {1, 2}},
    )
    report = build_report(BOTH, SOURCE, rows)
    by_knowledge = {k: share.correct for k, share in report.worst_case_by_knowledge.items()}
    assert by_knowledge == {Knowledge.GREY_BOX: 3, Knowledge.WHITE_BOX: 2}
    assert report.worst_case.correct == 1
    assert [(line.label, line.worst_case.correct) for line in report.classes] == [
        ("zero", 0),
        ("one", 1),
    ]


def test_an_image_that_is_wrong_clean_is_lost_even_if_an_attack_rights_it() -> None:
    rows = rows_of(WHITE, [0, 1], clean_wrong={0}, broken={})
    report = build_report(WHITE, SOURCE, rows)
    assert report.clean.defended.correct == 1
    assert [line.defended.correct for line in report.lines] == [1, 1]
    assert report.worst_case.correct == 1


def test_no_answer_is_a_wrong_answer_and_is_told() -> None:
    rows = rows_of(WHITE, [0, 1], broken={})
    rows = [
        row.model_copy(update={"answer": None, "confidence": None})
        if isinstance(row, AttackRow) and (row.attack, row.index) == (0, 1)
        else row
        for row in rows
    ]
    report = build_report(WHITE, SOURCE, rows)
    assert [line.not_finite for line in report.lines] == [1, 0]
    assert report.worst_case.correct == 1
    assert "1 answers were NaN or infinite" in to_markdown(report)


def test_rows_in_any_order_and_through_json_give_the_same_bytes() -> None:
    rows = rows_of(BOTH, [0, 1] * 10, broken={(Knowledge.WHITE_BOX, 1): {3, 4, 11}})
    expected = build_report(BOTH, SOURCE, rows)
    for seed in range(5):
        shuffled = ROWS.validate_json(ROWS.dump_json(rows))
        random.Random(seed).shuffle(shuffled)
        report = build_report(BOTH, SOURCE, shuffled)
        assert report.model_dump_json() == expected.model_dump_json()
        assert to_markdown(report) == to_markdown(expected)


def test_the_cost_of_all_shards_is_summed() -> None:
    report = build_report(BOTH, SOURCE, rows_of(BOTH, [0], broken={}))
    assert (report.lines[0].forward_passes, report.lines[0].backward_passes) == (10, 6)
    assert (report.identity.forward_passes, report.identity.backward_passes) == (40, 24)


@pytest.mark.parametrize("kind", [CleanRow, AttackRow])
def test_missing_and_doubled_rows_are_refused(kind: type[Row]) -> None:
    rows = rows_of(BOTH, [0, 1], broken={})
    position = next(p for p, row in enumerate(rows) if isinstance(row, kind))
    with pytest.raises(AuditRowsInvalid):
        build_report(BOTH, SOURCE, rows[:position] + rows[position + 1 :])
    with pytest.raises(AuditRowsInvalid):
        build_report(BOTH, SOURCE, [*rows, rows[position]])


def test_no_rows_are_no_report() -> None:
    with pytest.raises(AuditRowsInvalid):
        build_report(BOTH, SOURCE, [])


def test_the_verdict_promises_nothing() -> None:
    rows = rows_of(WHITE, [0, 1], broken={(Knowledge.WHITE_BOX, 0): {1}})
    verdict = build_report(WHITE, SOURCE, rows).verdict
    assert "upper bound on robustness, not a proof" in verdict
    for words in ("of 2 images", "50.0 %", "Linf, epsilon 0.2 = 51/255"):
        assert words in verdict
    grey = spec_of(Knowledge.GREY_BOX)
    assert "add white_box" in build_report(grey, SOURCE, rows_of(grey, [0], broken={})).verdict


def test_markdown_tables_survive_a_bar_in_a_name() -> None:
    text = to_markdown(build_report(BOTH, SOURCE, rows_of(BOTH, [0, 1], broken={})))
    assert "made\\|up" in text
    assert "| white_box | PGD-3 | denoiser + classifier | 100.0 % |" in text
