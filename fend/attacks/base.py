"""What every attack shares: the victim that counts passes, and the judge that trusts no attack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from fend.attacks.errors import AttackInvalid
from fend.attacks.objective import Objective
from fend.threat import MEASURE_TOLERANCE, ThreatModel, sample_seeds

Predict = Callable[[Tensor], Tensor]
"""Images (N,C,H,W) in [0, 1] to logits (N, classes), differentiable; modules in eval mode."""


@dataclass
class Victim:
    """The attacked model, with a count of the images that went through it each way."""

    predict: Predict
    forward_passes: int = 0
    backward_passes: int = 0

    def logits(self, images: Tensor) -> Tensor:
        """Logits without a gradient."""
        self.forward_passes += len(images)
        with torch.no_grad():
            return self.predict(images)

    def gradient(
        self, images: Tensor, values: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient (N,C,H,W), logits (N, classes) and values (N,) at `images`.

        The gradient of the *sum* over images: a mean would scale each image by its batch.
        """
        self.forward_passes += len(images)
        self.backward_passes += len(images)
        with torch.enable_grad():
            leaf = images.detach().requires_grad_(True)
            logits = self.predict(leaf)
            per_image = values(logits)
            (gradient,) = torch.autograd.grad(per_image.sum(), leaf)
        return gradient, logits.detach(), per_image.detach()


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


class Attack(Protocol):
    """An attack is its options (a pydantic model) and one pure function."""

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
        AttackInvalid: images outside [0, 1], labels that do not fit, or a non-finite perturbation.
    """
    _check(images, true_labels)
    ids = range(len(images)) if sample_ids is None else sample_ids
    victim = Victim(predict)
    clean_logits = victim.logits(images)
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
        raise AttackInvalid(f"{attacker.name} returned NaN or infinity; its gradient is broken")
    adversarial = threat.project(images, perturbed)
    distance = threat.measure(images, adversarial)
    if len(distance) and float(distance.max()) > threat.epsilon + MEASURE_TOLERANCE:
        raise AttackInvalid(f"projection left a perturbation of {float(distance.max())}")
    logits = victim.logits(adversarial)
    # NaN is no right answer: argmax of a NaN row would be arbitrary, so it counts as fooled.
    fooled = (logits.argmax(1) != true_labels) | ~torch.isfinite(logits).all(1)
    reached = attacker.objective.reached(logits, labels)
    return AttackResult(
        adversarial, fooled, reached, distance, victim.forward_passes, victim.backward_passes
    )


def _check(images: Tensor, labels: Tensor) -> None:
    if images.ndim != 4 or not images.is_floating_point():
        raise AttackInvalid(f"images must be floating (N,C,H,W), not {tuple(images.shape)}")
    if labels.shape != images.shape[:1]:
        raise AttackInvalid(f"{len(images)} images need as many labels, not {tuple(labels.shape)}")
    if len(images) and not (images.amin() >= 0 and images.amax() <= 1):
        raise AttackInvalid("images must lie in [0, 1]; models normalise inside themselves")
