"""What every attack shares: the problem that it is given, and the judge that trusts no attack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal, Protocol

from pydantic import BaseModel

from fend.attacks.diagnostics import Diagnostics, fools
from fend.attacks.lazy import Tensor, torch
from fend.attacks.objective import Objective
from fend.attacks.victim import Predict, Victim
from fend.errors import Invalid
from fend.threat import MEASURE_TOLERANCE, Norm, ThreatModel, sample_seeds

Access = Literal["gradient", "scores", "decisions", "none"]
"""What an attack takes from the model: gradients, logits, labels, or nothing to be guided by."""

SMALL_START = 0.01
"""A share of a random start."""


@dataclass(frozen=True)
class Problem:
    """One batch to attack. An attack sees nothing else."""

    victim: Victim
    images: Tensor
    """float32 (N,C,H,W) in [0, 1]."""
    labels: Tensor
    """(N,), chosen by the objective; not always the true ones."""
    clean_logits: Tensor
    threat: ThreatModel
    objective: Objective
    seed: int
    sample_ids: Sequence[int]
    """What the random draws of each image depend on, apart from the seed."""
    stop: Callable[[], None] = field(default=lambda: None)
    """Called between steps; raises to cancel."""

    def seeds(self, rows: Tensor, stream: str) -> list[int]:
        """One seed for each image of `rows`, whatever batch it is in; `stream` names the draw."""
        ids = [self.sample_ids[row] for row in rows.tolist()]
        return sample_seeds(self.seed, ids, stream)

    @property
    def clean_values(self) -> Tensor:
        """The objective's values (N,) of the clean images."""
        if self.objective.loss == "feature_distance":
            return self.images.new_zeros(len(self.images))
        return self.objective.values(self.clean_logits, self.labels)

    def first_images(self, rows: Tensor) -> Tensor:
        """Where an attack without a random start begins: at the clean images, or for
        `feature_distance`, which has no gradient there, `SMALL_START` of epsilon away."""
        images = self.images[rows]
        if self.objective.loss != "feature_distance":
            return images
        start = self.threat.random_start(images, self.seeds(rows, "small-start"))
        return images + SMALL_START * (start - images)

    def ask(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The objective's values (N,) at `images`, and whether each (N,) reaches the goal."""
        labels = self.labels[rows]
        logits = self.victim.logits(images, rows)
        reached = self.objective.reached(logits, labels)
        if self.objective.loss == "feature_distance":
            with torch.no_grad():
                return self.victim.feature_distance(images, rows), reached
        return self.objective.values(logits, labels), reached

    def gradient(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The objective's gradient (N,C,H,W), and what `ask` gives."""
        labels = self.labels[rows]
        if self.objective.loss == "feature_distance":
            gradient, values = self.victim.feature_gradient(images, rows)
            logits = self.victim.logits(images, rows)
        else:
            gradient, logits, values = self.victim.gradient(
                images, partial(self.objective.values, labels=labels), rows
            )
        return gradient, values, self.objective.reached(logits, labels)


class AttackOptions(BaseModel, frozen=True, extra="forbid"):
    """The options of an attack, and what most attacks take and look for."""

    access: ClassVar[Access] = "gradient"
    minimal: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")


class Attack(Protocol):
    """An attack is its options (a pydantic model) and one pure function.

    Those with gradient access also have an option `gradient`, which they never look at: whoever
    runs them wraps the model accordingly.
    """

    access: ClassVar[Access]
    minimal: ClassVar[bool]
    """Whether it looks for the smallest perturbation, not the worst within epsilon."""
    norms: ClassVar[tuple[Norm, ...]]
    """The norms that it is defined for."""

    @property
    def name(self) -> str: ...
    @property
    def objective(self) -> Objective: ...
    def perturb(self, problem: Problem) -> Tensor:
        """Perturbed images; the judge projects, clips and checks them."""
        ...


@dataclass(frozen=True)
class AttackResult:
    """What an attack found, after the judge."""

    adversarial: Tensor
    """float32 (N,C,H,W) in [0, 1], within epsilon of the clean images."""
    fooled: Tensor
    """bool (N,): the attacked model's answer on `adversarial` is not the true label."""
    reached: Tensor
    """bool (N,): the attacker's own goal, which differs where the goal is a target."""
    distance: Tensor
    """(N,), in the threat model's norm."""
    forward_passes: int
    backward_passes: int
    seen_fooled: Tensor
    """bool (N,): some image that the attack asked about, within epsilon and [0, 1], fooled the
    attacked model. Where `fooled` is False the attack lost what it had found. The clean image,
    where the model gets it wrong, is no find."""
    zero_gradient: Tensor
    """bool (N,): gradients were taken, and every one was exactly zero."""
    broken_gradient: Tensor
    """bool (N,): some gradient held NaN or infinity, which was taken as zero."""
    late_gain: Tensor
    """(N,): how much, 0..1, of the objective's whole rise came in the last tenth of the steps. NaN
    for an image that left its runs early, and for attacks of fewer than ten steps."""


def attack(
    attacker: Attack,
    predict: Predict,
    images: Tensor,
    true_labels: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    sample_ids: Sequence[int] | None = None,
    stop: Callable[[], None] | None = None,
) -> AttackResult:
    """Run `attacker` and judge what it returns, whatever it returns.

    The result is projected onto the ball and the box here, so that no attack can cheat or forget;
    success is decided on the projected images. The judge's own passes are counted too.

    Raises:
        Invalid (`attack_invalid`): images outside [0, 1], labels that do not fit, a norm or a model
            that the attack cannot work with, or a perturbation with NaN or infinity.
    """
    _check(images, true_labels)
    _check_norm(attacker, threat.norm)
    ids = range(len(images)) if sample_ids is None else sample_ids
    rows = torch.arange(len(images), device=images.device)
    diagnostics = Diagnostics.start(images, true_labels, threat)
    victim = Victim(predict, diagnostics)
    clean_logits = victim.logits(images, rows)
    _check_classes(attacker, clean_logits.shape[1])
    labels = attacker.objective.labels(clean_logits, true_labels, seed, ids)
    problem = Problem(
        victim,
        images,
        labels,
        clean_logits,
        threat,
        attacker.objective,
        seed,
        ids,
        stop or (lambda: None),
    )
    perturbed = attacker.perturb(problem).detach()
    if not torch.isfinite(perturbed).all():
        raise Invalid(f"{attacker.name} returned NaN or infinity", code="attack_invalid")
    adversarial = threat.project(images, perturbed)
    distance = threat.measure(images, adversarial)
    if len(distance) and float(distance.max()) > threat.epsilon + MEASURE_TOLERANCE:
        raise Invalid(
            f"projection left a perturbation of {float(distance.max())}", code="attack_invalid"
        )
    logits = victim.logits(adversarial, rows)
    fooled = fools(logits, true_labels)
    return AttackResult(
        adversarial=adversarial,
        fooled=fooled,
        reached=attacker.objective.reached(logits, labels),
        distance=distance,
        forward_passes=victim.forward_passes,
        backward_passes=victim.backward_passes,
        # There is nothing to find on an image that the model gets wrong as it is.
        seen_fooled=(diagnostics.seen_fooled & ~fools(clean_logits, true_labels)) | fooled,
        zero_gradient=diagnostics.zero_gradient,
        broken_gradient=diagnostics.broken_gradient,
        late_gain=diagnostics.late_gain,
    )


def needs_classes(attacker: Attack) -> int:
    """How many classes a model must have at least for `attacker` to run on it.

    An attack that needs more than its objective does has a method of this name.
    """
    own: Callable[[], int] | None = getattr(attacker, "needs_classes", None)
    return attacker.objective.needs_classes() if own is None else own()


def _check_norm(attacker: Attack, norm: Norm) -> None:
    if norm not in attacker.norms:
        known = " and ".join(attacker.norms)
        raise Invalid(
            f"{attacker.name} is made for {known}, and threat.norm is {norm}", code="attack_invalid"
        )


def _check_classes(attacker: Attack, classes: int) -> None:
    needed = needs_classes(attacker)
    if classes < needed:
        raise Invalid(
            f"{attacker.name} with these options needs {needed} classes or more, and the model has "
            f"{classes}; use fewer targets, or loss 'margin' instead of 'dlr'",
            code="attack_invalid",
        )


def _check(images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise Invalid(
            f"images must be floating (N,C,H,W), not {tuple(images.shape)}", code="attack_invalid"
        )
    if labels.shape != images.shape[:1]:
        raise Invalid(
            f"{len(images)} images need as many labels, not {tuple(labels.shape)}",
            code="attack_invalid",
        )
    if len(images) and not (images.amin() >= 0 and images.amax() <= 1):
        raise Invalid(
            "images must lie in [0, 1]; models normalise inside themselves", code="attack_invalid"
        )
