"""What an attack maximises: a loss, a label that it is measured against, and a direction."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, model_validator
from torch import Tensor
from torch.nn import functional as F

from fend.attacks.errors import AttackInvalid
from fend.threat import sample_seeds

Loss = Literal["cross_entropy", "margin", "dlr"]
LabelSource = Literal["true", "predicted", "least_likely", "random"]
Goal = Literal["untargeted", "targeted"]


class Objective(BaseModel, frozen=True, extra="forbid"):
    """How the attacked label is chosen and which way the loss is pushed.

    `predicted` keeps the label from leaking into the perturbation (Kurakin et al. 2016, eq. 2 of
    the paper as we read it); `least_likely` and `random` are targets.

    `margin` and `dlr` still have a gradient where a confident model's `cross_entropy` has rounded
    to nothing. `dlr`, the difference of logits ratio (Croce & Hein 2020), is the margin in units
    of the logits' own spread, so that scaling or shifting them changes nothing. It takes three
    classes, or four for a targeted goal.
    """

    loss: Loss = "cross_entropy"
    goal: Goal = "untargeted"
    label_source: LabelSource = "true"

    @model_validator(mode="after")
    def _label_fits_goal(self) -> "Objective":
        targets = ("least_likely", "random")
        if (self.goal == "targeted") != (self.label_source in targets):
            raise ValueError(
                f"a {self.goal} attack cannot take label_source={self.label_source!r}: untargeted "
                "attacks take 'true' or 'predicted', targeted ones 'least_likely' or 'random'"
            )
        return self

    def labels(
        self, clean_logits: Tensor, true_labels: Tensor, seed: int, sample_ids: Sequence[int]
    ) -> Tensor:
        """The label (N,) that each image is pushed away from (untargeted) or towards."""
        if self.label_source == "true":
            return true_labels
        if self.label_source == "predicted":
            return clean_logits.argmax(1)
        if self.label_source == "least_likely":
            return clean_logits.argmin(1)
        classes = clean_logits.shape[1]
        shifts = [1 + s % (classes - 1) for s in sample_seeds(seed, sample_ids, "target")]
        return (true_labels + torch.tensor(shifts, device=true_labels.device)) % classes

    def values(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The number (N,) that the attack makes as large as it can.

        Raises:
            AttackInvalid: `dlr` on a model with too few classes.
        """
        if self.loss == "cross_entropy":
            value = F.cross_entropy(logits, labels, reduction="none")
        else:
            value = _margin(logits, labels)
        if self.loss == "dlr":
            value = value / _spread(logits, self.goal)
        return value if self.goal == "untargeted" else -value

    def values_towards(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """The number (N,) that grows from `labels` (N,) towards the classes `targets` (N,).

        For an untargeted attack that tries one class after another, so the goal plays no part.

        Raises:
            AttackInvalid: `dlr` on a model with too few classes.
        """
        if self.loss == "cross_entropy":
            return -F.cross_entropy(logits, targets, reduction="none")
        towards, away = (logits.gather(1, c.unsqueeze(1)).squeeze(1) for c in (targets, labels))
        gap = towards - away
        return gap / _spread(logits, "targeted") if self.loss == "dlr" else gap

    def reached(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether each image (N,) already answers as the attacker wants."""
        hit = logits.argmax(1) == labels
        return hit if self.goal == "targeted" else ~hit


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Best other logit minus the label's: positive once the label is no longer the answer."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), float("-inf"))
    return others.amax(1) - own


def _spread(logits: Tensor, goal: Goal) -> Tensor:
    """What `dlr` divides by (N,): the best logit minus the third, or the third and fourth's mean.

    With the third alone, a targeted loss would be constant wherever the target is the third.
    """
    classes, needed = logits.shape[1], 3 if goal == "untargeted" else 4
    if classes < needed:
        raise AttackInvalid(
            f"loss 'dlr' needs {needed} classes or more for a {goal} run, and the model has "
            f"{classes}; use loss 'margin'"
        )
    top = logits.topk(needed, dim=1).values
    return top[:, 0] - top[:, 2:].mean(1) + 1e-12
