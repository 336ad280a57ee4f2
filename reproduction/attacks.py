"""The attacks of a cell: the paper's at every level, then what a white-box attacker adds.

paper      FGSM and PGD-100 with a random start, at each level of knowledge (section 4.2)
white-box  PGD-100 and APGD-100 from the image, PGD-100 on the margin, on the features and past the
           denoiser (BPDA), targeted APGD; each on what those before left. A step of half of epsilon
           is too long for a small hole, which APGD finds.
"""

from fend.attacks import APGD, FGSM, PGD, AttackSpec, Gradient, Objective, Square

GREY, EIGHT = 0.2, 0.0313725
"""The paper's epsilon, and 8/255."""
PAPER_STEP = 0.1
"""At epsilon 0.2. At 8/255 a step is 2/255, as Madry et al. have it: 0.1 would leave the ball."""
NO_GRADIENT = ("sequence", "noise-reduction")
"""Denoisers that round or count: feature squeezing and noise reduction."""
STEPS, QUERIES = 100, 2_000
SMOKE_STEPS = SMOKE_QUERIES = 5


def paper_attacks(profile: str, epsilon: float) -> tuple[AttackSpec, AttackSpec]:
    """FGSM and PGD as section 4.2 has them."""
    step_size = PAPER_STEP if epsilon >= GREY else epsilon / 4
    return FGSM(), PGD(steps=_steps(profile), step_size=step_size)


def with_bypass(denoiser: str, attacks: tuple[AttackSpec, ...]) -> tuple[AttackSpec, ...]:
    """`attacks`, and where this denoiser has no useful gradient, the same with BPDA beside them:
    whoever knows of the denoiser uses them, and the worse of the two counts."""
    if denoiser not in NO_GRADIENT:
        return attacks
    past = {"gradient": Gradient(denoiser="identity")}
    return (*attacks, *(item.model_copy(update=past) for item in attacks))


def white_box_attacks(profile: str, denoiser: str) -> tuple[AttackSpec, ...]:
    """What an attacker who knows everything tries besides the paper's attacks."""
    steps = _steps(profile)
    past = Gradient(denoiser="identity")
    through = past if denoiser in NO_GRADIENT else Gradient()
    margin = Objective(loss="margin")
    attacks: list[AttackSpec] = [
        PGD(steps=steps, random_start=False),
        APGD(steps=steps, gradient=through),
        PGD(steps=steps, objective=margin, random_start=False),
        PGD(steps=steps, objective=Objective(loss="feature_distance")),
    ]
    if denoiser != "identity":
        attacks.append(PGD(steps=steps, gradient=past))
        attacks.append(PGD(steps=steps, gradient=past, objective=margin))
    dlr = Objective(loss="dlr")
    attacks.append(APGD(steps=steps // 2, targets=9, objective=dlr, gradient=through))
    if denoiser in NO_GRADIENT:  # an attack that needs none
        attacks.append(Square(queries=SMOKE_QUERIES if profile == "smoke" else QUERIES))
    return tuple(attacks)


def _steps(profile: str) -> int:
    return SMOKE_STEPS if profile == "smoke" else STEPS
