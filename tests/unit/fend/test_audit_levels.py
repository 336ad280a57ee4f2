"""Which attack runs at which level, what it goes through, and how it runs there."""

import pytest

from fend.attacks import APGD, FGSM, MIFGSM, PGD, AttackSpec, Gradient, Noise, Objective, Square
from fend.audit import AuditSpec
from fend.audit.levels import attack_at, gradient_through, pairs, runs_at
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
    ids=repr,
)
def test_each_attack_runs_where_it_makes_sense(
    attacker: AttackSpec, levels: set[Knowledge]
) -> None:
    assert {level for level in Knowledge if runs_at(attacker, level)} == levels


def test_lines_are_in_the_order_of_the_spec() -> None:
    spec = AuditSpec(
        model="m", knowledge=(QUERY, WHITE, GREY), attacks=(Square(), PGD(), Noise(), FGSM())
    )
    assert pairs(spec) == (
        (QUERY, 0), (WHITE, 1), (WHITE, 2), (WHITE, 3), (GREY, 1), (GREY, 3)
    )  # fmt: skip


@pytest.mark.parametrize("attacker", [PGD(), APGD(), MIFGSM()], ids=repr)
def test_an_attack_stops_early_only_where_the_attacked_model_is_the_judge(
    attacker: AttackSpec,
) -> None:
    """A surrogate falls long before the pipeline does; a random pipeline falls once by luck."""
    for level in TRANSFER:
        assert attack_at(attacker, level).early_stop is False  # type: ignore[union-attr]
    assert attack_at(attacker, WHITE) == attacker
    assert attack_at(attacker, WHITE, randomised=True).early_stop is False  # type: ignore[union-attr]
    assert attack_at(FGSM(), GREY) == FGSM()


def test_a_line_says_which_graph_its_gradient_went_through() -> None:
    """ART #1483, #1492: nobody could tell a grey-box from a white-box result."""
    said = {level: gradient_through(FGSM(), level) for level in (*TRANSFER, WHITE)}
    assert said == {
        BLACK: "surrogate classifier",
        GREY: "classifier",
        AWARE: "surrogate denoiser + surrogate classifier",
        WHITE: "denoiser + classifier",
    }
    past = PGD(gradient=Gradient(denoiser="identity", samples=20))
    assert gradient_through(past, WHITE) == (
        "denoiser (backward: identity) + classifier, mean of 20"
    )
    assert gradient_through(Square(), QUERY).startswith("none")
    assert gradient_through(Noise(), WHITE).startswith("none")
