"""A spec resolved: which attack runs at which level, how, and what its gradient goes through."""

import pytest

from fend.attacks import APGD, FGSM, MIFGSM, PGD, AttackSpec, Gradient, Noise, Objective, Square
from fend.audit import AuditSpec
from fend.audit.levels import runs_at
from fend.audit.plan import Plan, line_at
from fend.threat import Knowledge

BLACK, GREY, AWARE, WHITE, QUERY = Knowledge
TRANSFER = {BLACK, GREY, AWARE}


@pytest.mark.parametrize(
    ("attacker", "levels"),
    [
        (FGSM(), {*TRANSFER, WHITE}),
        (PGD(gradient=Gradient(samples=5)), {*TRANSFER, WHITE}),
        (PGD(gradient=Gradient(denoiser="identity")), {AWARE, WHITE}),
        (PGD(objective=Objective(loss="feature_distance")), {*TRANSFER, WHITE}),
        (APGD(), {*TRANSFER, WHITE}),
        (APGD(targets=3), {WHITE}),
        (Noise(), {WHITE}),
        (Square(), {QUERY}),
    ],
)
def test_each_attack_runs_where_it_makes_sense(attacker, levels):
    assert {level for level in Knowledge if runs_at(attacker, level)} == levels


def test_lines_are_in_the_order_of_the_spec() -> None:
    spec = AuditSpec(
        model="m", knowledge=(QUERY, WHITE, GREY), attacks=(Square(), PGD(), Noise(), FGSM())
    )
    assert tuple(Plan.of(spec, False).lines) == (
        (QUERY, 0), (WHITE, 1), (WHITE, 2), (WHITE, 3), (GREY, 1), (GREY, 3)
    )  # fmt: skip


@pytest.mark.parametrize("attacker", [PGD(), APGD(), MIFGSM()], ids=repr)
def test_an_attack_stops_early_only_where_the_attacked_model_is_the_judge(attacker):
    """A surrogate falls long before the pipeline does; a random pipeline falls once by luck."""
    for level in TRANSFER:
        assert line_at(attacker, level).attack.early_stop is False  # type: ignore[union-attr]
    assert line_at(attacker, WHITE).attack == attacker
    assert line_at(attacker, WHITE, randomised=True).attack.early_stop is False  # type: ignore[union-attr]
    assert line_at(FGSM(), GREY).attack == FGSM()


def test_a_line_says_which_graph_its_gradient_went_through() -> None:
    """ART #1483, #1492: nobody could tell a grey-box from a white-box result."""
    said = {level: line_at(FGSM(), level).gradient_through for level in (*TRANSFER, WHITE)}
    assert said == {
        BLACK: "surrogate classifier",
        GREY: "classifier",
        AWARE: "surrogate denoiser + surrogate classifier",
        WHITE: "denoiser + classifier",
    }
    past = PGD(gradient=Gradient(denoiser="identity", samples=20))
    assert line_at(past, WHITE).gradient_through == (
        "denoiser (backward: identity) + classifier, mean of 20"
    )
    assert line_at(Square(), QUERY).gradient_through.startswith("none")
    assert line_at(Noise(), WHITE).gradient_through.startswith("none")


@pytest.mark.parametrize(
    ("attack", "title"),
    [
        (PGD(steps=40, restarts=5), "PGD-40x5"),
        (PGD(random_start=False), "PGD-100 from the image"),
        (PGD(gradient=Gradient(denoiser="identity")), "PGD-100 BPDA"),
        (PGD(gradient=Gradient(samples=20)), "PGD-100 EOT-20"),
        (PGD(objective=Objective(loss="feature_distance")), "PGD-100 feature distance"),
        (APGD(targets=9, objective=Objective(loss="dlr")), "APGD-T9-100 dlr"),
        (FGSM(), "FGSM"),
        (PGD(steps=40, objective=Objective(loss="margin")), "PGD-40 margin"),
        (MIFGSM(), "MI-FGSM-10"),
        (Noise(), "NOISE-10"),
        (Square(), "SQUARE-5000"),
    ],
)
def test_titles_tell_attacks_apart(attack: AttackSpec, title: str) -> None:
    assert line_at(attack, WHITE).title == title
