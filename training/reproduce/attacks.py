"""The audits of a cell: the paper's attacks at every level, then what a white-box attacker adds.

paper      FGSM and PGD-100 with a random start, at each level of knowledge (section 4.2)
white-box  PGD-100 on the margin, on the features, from the image, and past the denoiser (BPDA);
           each on what the one before left; and epsilon 0 and 0.5
"""

from fend.attacks import FGSM, PGD, AttackSpec, Gradient, Objective
from fend.audit import AuditSpec
from fend.audit.levels import NEED_SURROGATE
from fend.threat import Knowledge, ThreatModel
from training.reproduce.cells import GREY, Cell

STEPS = 100
PAPER_STEP = 0.1
"""At epsilon 0.2. At 8/255 a step is 2/255, as Madry et al. have it: 0.1 would leave the ball."""
NO_GRADIENT = ("sequence", "noise-reduction")
"""Denoisers that round or count: feature squeezing and noise reduction."""
SMOKE_STEPS = 5
HALF = 0.5


def paper_audit(cell: Cell, model: str, surrogate: str | None, epsilon: float) -> AuditSpec:
    """FGSM and PGD at each of the cell's levels, every attack on every image."""
    needs = any(level in NEED_SURROGATE for level in cell.levels)
    return AuditSpec(
        model=model,
        dataset=cell.recipe.data.test,
        samples=cell.images,
        threat=ThreatModel(norm="linf", epsilon=epsilon),
        knowledge=cell.levels,
        attacks=_with_bypass(cell, paper_attacks(cell.profile, epsilon)),
        surrogate=surrogate if needs else None,
        sanity_samples=0,
        examples=0,
        shard_size=cell.shard,
    )


def paper_attacks(profile: str, epsilon: float) -> tuple[AttackSpec, AttackSpec]:
    """FGSM and PGD as section 4.2 has them."""
    step_size = PAPER_STEP if epsilon >= GREY else epsilon / 4
    return FGSM(), PGD(steps=_steps(profile), step_size=step_size)


def _with_bypass(cell: Cell, attacks: tuple[AttackSpec, ...]) -> tuple[AttackSpec, ...]:
    """Where the denoiser has no useful gradient, the same attacks with BPDA beside them: whoever
    knows of the denoiser uses them, and the worse of the two counts."""
    if cell.recipe.denoiser.architecture not in NO_GRADIENT:
        return attacks
    past = {"gradient": Gradient(denoiser="identity")}
    return (*attacks, *(item.model_copy(update=past) for item in attacks))


def white_box_audit(cell: Cell, model: str, epsilon: float) -> AuditSpec:
    """The further white-box attacks. A defence without a denoiser has none to pass by."""
    steps = _steps(cell.profile)
    attacks: list[AttackSpec] = [
        PGD(steps=steps, objective=Objective(loss="margin"), random_start=False),
        PGD(steps=steps, random_start=False),
        PGD(steps=steps, objective=Objective(loss="feature_distance")),
    ]
    if cell.recipe.denoiser.architecture != "identity":
        past = Gradient(denoiser="identity")
        attacks.append(PGD(steps=steps, gradient=past))
        attacks.append(PGD(steps=steps, gradient=past, objective=Objective(loss="margin")))
    return AuditSpec(
        model=model,
        dataset=cell.recipe.data.test,
        samples=cell.images,
        threat=ThreatModel(norm="linf", epsilon=epsilon),
        knowledge=(Knowledge.WHITE_BOX,),
        attacks=tuple(attacks),
        cascade=True,
        epsilons=(0.0, HALF),
        sanity_samples=0,
        examples=0,
        shard_size=cell.shard,
    )


def _steps(profile: str) -> int:
    return SMOKE_STEPS if profile == "smoke" else STEPS
