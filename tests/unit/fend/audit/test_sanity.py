"""The sanity block: it sees what would make a report wrong, and leaves honest models alone."""

from collections.abc import Callable, Sequence
from typing import Any

import audit_rows
import pytest

from fend.attacks import FGSM, PGD, AttackSpec, Gradient, Noise, Objective, Square
from fend.audit.rows import AttackRow, CleanRow, Probe, ProbeRow
from fend.threat import Knowledge

BLACK, GREY, WHITE, QUERY = (
    Knowledge.BLACK_BOX,
    Knowledge.GREY_BOX,
    Knowledge.WHITE_BOX,
    Knowledge.QUERY,
)
BPDA = PGD(steps=20, gradient=Gradient(denoiser="identity"))
FEATURES = PGD(steps=20, objective=Objective(loss="feature_distance"))
FULL: Sequence[AttackSpec] = (FGSM(), PGD(steps=20), BPDA, FEATURES, Noise(), Square(queries=9))
"""At white_box these are the lines 0 to 4; Square, 5, is at query."""
LEVELS = (BLACK, GREY, WHITE, QUERY)
EPSILONS = (0.0, 0.1, 0.2, 0.3)


@pytest.fixture
def full() -> Callable[..., Any]:
    """Rows of an audit that tries everything: 200 images, all in order."""

    def make(**fields: Any) -> Any:
        made = audit_rows.AuditRows(FULL, LEVELS, n=200, epsilons=EPSILONS, **fields)
        return made.serves((WHITE, 1), range(50), other=[0, 1])

    return make


def broken(made: Any, count: int) -> Any:
    """An honest model: stronger attackers break more."""
    for key, part in (((BLACK, 1), 0.1), ((GREY, 1), 0.3), ((QUERY, 5), 0.5), ((WHITE, 0), 0.4),
                      ((WHITE, 1), 1.0), ((WHITE, 2), 0.6), ((WHITE, 3), 0.9)):  # fmt: skip
        made.breaks(key, range(int(part * count)))
    for place, epsilon in enumerate(EPSILONS):
        made.bends(epsilon, range(count * place // 3))
    return made


@pytest.mark.parametrize("count", [0, 1, 20, 199, 200])
def test_an_honest_model_passes_whether_strong_or_weak(full, count):
    report = broken(full(), count).report()
    assert report.reliable is True, report.verdict
    assert all(line.passed is True for line in report.sanity)
    assert report.verdict.startswith("It does not hold" if count == 200 else "An upper bound")


def test_one_image_may_be_chance_in_every_check_that_compares_attacks(full):
    made = full().breaks((WHITE, 0), [0]).breaks((QUERY, 5), [1]).breaks((WHITE, 2), [2])
    made.breaks((WHITE, 4), [3]).breaks((GREY, 1), [4]).bends(0.1, [5])
    for probe in (Probe.MORE_STEPS, Probe.MORE_RESTARTS, Probe.NOISE, Probe.UNBOUNDED):
        made.fails(probe, [6])
    made.change(AttackRow, [7], seen_fooled=True)
    made.change(AttackRow, [8], zero_gradient=True)
    assert not made.failed()


DEFECTS: dict[str, Callable[[Any], object]] = {
    "accuracy falls with epsilon": lambda made: made.bends(0.3, range(20)).bends(0.2, range(30)),
    "the curve finds no more than the lines": lambda made: made.bends(0.1, range(4)).bends(
        0.3, range(4)
    ),
    "iterated attacks beat one step": lambda made: made.breaks((WHITE, 0), range(5)).breaks(
        (WHITE, 3), range(3)
    ),
    "twice the steps change nothing": lambda made: made.fails(Probe.MORE_STEPS, [0, 9]),
    "twice the restarts change nothing": lambda made: made.fails(Probe.MORE_RESTARTS, [0, 9]),
    "white-box is the strongest": lambda made: made.breaks((BLACK, 0), [0, 1]),
    "queries find no more than gradients": lambda made: made.breaks((QUERY, 5), [0, 1]),
    "BPDA and features find no more": lambda made: made.breaks((WHITE, 2), [0]).breaks(
        (WHITE, 3), [1]
    ),
    "without a bound, everything falls": lambda made: made.fails(Probe.UNBOUNDED, range(40)),
    "noise is weaker than attacks": lambda made: made.fails(Probe.NOISE, [0, 1]),
    "the bare classifier falls": lambda made: made.fails(Probe.UNDEFENDED, range(198)),
    "gradients are not zero": lambda made: made.change(AttackRow, [0, 1], zero_gradient=True),
    "gradients are numbers": lambda made: made.change(
        AttackRow, [0], key=(WHITE, 0), broken_gradient=True
    ),
    "nothing found is lost": lambda made: made.change(
        AttackRow, [0, 1], key=(WHITE, 1), seen_fooled=True
    ),
    "attacks ran to their end": lambda made: made.change(AttackRow, range(120), late_gain=0.11),
    "answers repeat, or EOT is used": lambda made: made.change(
        ProbeRow, [3], probe=Probe.REPEATED, passed=False, value=0.1
    ),
    "epsilon 0 equals clean": lambda made: made.fails(Probe.EPSILON_ZERO, [0]),
    "outputs are logits": lambda made: made.fails(Probe.LOGITS, [0]),
    "the loss is stable": lambda made: made.fails(Probe.STABLE, range(60)),
    "the rules were kept": lambda made: made.change(AttackRow, [0], key=(WHITE, 1), distance=0.201),
    "the service answers the same": lambda made: made.serves(
        (WHITE, 0), range(50), other=range(20)
    ),
}


def test_every_check_has_a_defect_here(full: Callable[..., Any]) -> None:
    assert {line.name for line in full().report().sanity} == set(DEFECTS)


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_makes_the_report_unreliable(full: Callable[..., Any], name: str) -> None:
    made = full()
    DEFECTS[name](made)
    report = made.report()
    failed = [line.name for line in report.sanity if line.passed is False]
    assert name in failed
    assert report.reliable is False
    assert report.verdict.startswith("Unreliable: ")
    assert name in report.verdict
    assert "no evidence" in report.verdict


def test_numbers_that_are_not_there_count_as_not_answered(full: Callable[..., Any]) -> None:
    made = full().change(CleanRow, [0], answer=None, confidence=None)
    assert "the rules were kept" in made.failed()


def test_zero_gradients_are_no_matter_where_the_image_falls_anyway(full):
    made = full().breaks((WHITE, 1), range(200)).change(AttackRow, range(200), zero_gradient=True)
    assert "gradients are not zero" not in made.failed()


def test_a_loss_with_a_gradient_covers_for_one_without(full: Callable[..., Any]) -> None:
    made = full().change(AttackRow, range(200), key=(WHITE, 1), zero_gradient=True)
    assert not made.failed()


def test_bpda_that_is_weaker_is_no_failure_but_is_no_evidence_either(full):
    report = full().breaks((WHITE, 1), range(200)).report()
    [line] = [line for line in report.sanity if line.name == "BPDA and features find no more"]
    assert line.passed is True
    assert "100.0 % under PGD-20 BPDA" in line.text
    assert "says nothing for the model" in line.text


def test_transfer_at_grey_box_may_favour_one_step(full: Callable[..., Any]) -> None:
    made = full().breaks((GREY, 0), range(50)).breaks((WHITE, 1), range(60))
    assert not made.failed()


def test_a_small_epsilon_that_breaks_nothing_is_not_held_against_the_attack():
    made = audit_rows.AuditRows(threat={"epsilon": 0.01}).change(AttackRow, range(100), distance=0)
    made.fails(Probe.UNDEFENDED, range(100))
    report = made.report()
    [line] = [line for line in report.sanity if line.name == "the bare classifier falls"]
    assert line.passed is None
    assert report.reliable is True


def test_a_hardened_classifier_is_no_broken_attack(full: Callable[..., Any]) -> None:
    assert not full().fails(Probe.UNDEFENDED, range(186)).failed()


def test_eot_answers_for_randomness():
    eot = PGD(steps=20, gradient=Gradient(samples=20))
    for attacks, failed in (((PGD(),), True), ((PGD(), eot), False)):
        made = audit_rows.AuditRows(attacks)
        made.source = made.source.model_copy(update={"randomised": True})
        made.change(ProbeRow, range(100), probe=Probe.REPEATED, passed=False, value=0.3)
        made.change(AttackRow, range(50), seen_fooled=True)  # luck of one draw
        made.fails(Probe.EPSILON_ZERO, [0])
        assert made.failed() == ({"answers repeat, or EOT is used"} if failed else set())


def test_a_cascade_is_compared_only_where_attacks_tried():
    attacks = (FGSM(), BPDA, PGD(steps=20))
    made = audit_rows.AuditRows(attacks, (WHITE,), cascade=True).breaks((WHITE, 0), range(10))
    made.skips((WHITE, 1), range(10)).breaks((WHITE, 1), range(10, 30))
    made.skips((WHITE, 2), range(30))
    verdicts = made.verdicts()
    assert verdicts["iterated attacks beat one step"] is None
    # FGSM tried the images 10 to 29 and failed, so that BPDA did find something new.
    assert verdicts["BPDA and features find no more"] is False


def test_what_was_not_tried_is_said_and_is_no_failure():
    report = audit_rows.AuditRows((FGSM(),), (GREY,), probed=False).report()
    assert report.reliable is None
    assert "No probes ran" in report.verdict
    untried = [line for line in report.sanity if line.passed is None]
    assert len(untried) > 10
    assert all(line.text.startswith("Not tried: ") for line in untried)


def test_without_probes_a_defect_still_shows():
    made = audit_rows.AuditRows(probed=False).breaks((GREY, 1), range(9))
    assert made.report().reliable is False


@pytest.mark.parametrize(("n", "extra", "fails"), [
    (50, 1, False), (50, 2, True), (200, 1, False), (200, 2, True), (1_000, 2, False),
    (1_000, 3, True),
])  # fmt: skip
def test_queries_may_find_two_in_a_thousand_but_at_least_one(n, extra, fails):
    made = audit_rows.AuditRows((PGD(steps=20), Square(queries=9)), (WHITE, QUERY), n=n)
    made.breaks((QUERY, 1), range(extra))
    assert ("queries find no more than gradients" in made.failed()) is fails


def test_a_curve_that_climbs_in_small_steps_is_seen():
    epsilons = (0.3, 0.35, 0.4, 0.45, 0.5)
    made = audit_rows.AuditRows(n=100, epsilons=epsilons)
    for place, epsilon in enumerate(epsilons):
        made.bends(epsilon, range(10 - place))  # one image more at each point
    assert "accuracy falls with epsilon" in made.failed()


ALONE = {"gradients are numbers", "epsilon 0 equals clean", "outputs are logits",
         "the rules were kept"}  # fmt: skip
"""Defects that one image is enough to show."""


@pytest.mark.parametrize("name", [name for name in DEFECTS if "service" not in name])
def test_of_one_image_only_what_needs_no_second_one_is_judged(name):
    made = audit_rows.AuditRows(FULL, LEVELS, n=1, epsilons=EPSILONS)
    made.serves((WHITE, 1), [0], other=[0])
    DEFECTS[name](made)
    report = made.report()
    assert {line.name for line in report.sanity if line.passed is False} == ALONE & {name}
    assert report.reliable is (False if name in ALONE else None)
    untried = [line for line in report.sanity if line.passed is None]
    assert len(untried) > 8
    assert all(line.text.startswith("Not tried: ") for line in untried)


def test_images_of_one_class_leave_luck_out_of_account():
    made = audit_rows.AuditRows(n=20)
    made.change(CleanRow, range(20), label=3, answer=3)
    made.change(AttackRow, range(20), label=3, answer=3).fails(Probe.UNBOUNDED, range(20))
    assert made.verdicts()["without a bound, everything falls"] is None
