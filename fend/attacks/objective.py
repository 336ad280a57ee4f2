"""What an attack maximises: a loss, a label that it is measured against, and a direction."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

from pydantic import BaseModel, model_validator

from fend.attacks.lazy import Tensor, torch
from fend.errors import Invalid
from fend.threat import sample_seeds

Loss = Literal["cross_entropy", "margin", "dlr", "feature_distance"]
LabelSource = Literal["true", "predicted", "least_likely", "random"]
Goal = Literal["untargeted", "targeted"]

DLR_CLASSES: Mapping[Goal, int] = MappingProxyType({"untargeted": 3, "targeted": 4})
"""How many of the best logits loss `dlr` looks at."""


class Objective(BaseModel, frozen=True, extra="forbid"):
    """How the attacked label is chosen and which way the loss is pushed.

    `predicted` keeps the label from leaking into the perturbation (Kurakin et al. 2016, eq. 2 of
    the paper as we read it); `least_likely` and `random` are targets.

    `margin` and `dlr` still have a gradient where a confident model's `cross_entropy` has rounded
    to nothing. `dlr`, the difference of logits ratio (Croce & Hein 2020), is the margin in units
    of the logits' own spread, so that scaling or shifting them changes nothing. It takes three
    classes, or four for a targeted goal.

    `feature_distance` knows no label: it drives the features that the classifier decides by away
    from those of the clean image, in squared L2 distance (as in Naseer et al. 2020, "A
    self-supervised approach for adversarial robustness"). Its gradient at the clean image is zero,
    so attacks start beside it. Success is judged by the label all the same.
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
        if self.loss == "feature_distance" and self.goal == "targeted":
            raise ValueError("loss 'feature_distance' leads away from an image, to no target")
        return self

    def needs_classes(self, goal: Goal | None = None) -> int:
        """How many classes a model must have at least; `goal` is that of runs at one class each,
        where it is not the objective's own."""
        return DLR_CLASSES[goal or self.goal] if self.loss == "dlr" else 2

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
            Invalid (`attack_invalid`): `dlr` on a model with too few classes, or
                `feature_distance`, which is no function of logits (see `Problem.gradient`).
        """
        if self.loss == "feature_distance":
            raise Invalid("loss 'feature_distance' is no function of logits", code="attack_invalid")
        if self.loss == "cross_entropy":
            value = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        else:
            value = _margin(logits, labels)
        if self.loss == "dlr":
            value = value / _spread(logits, self.goal)
        return value if self.goal == "untargeted" else -value

    def values_towards(self, logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """The number (N,) that grows from `labels` (N,) towards the classes `targets` (N,).

        For an untargeted attack that tries one class after another, so the goal plays no part.

        Raises:
            Invalid (`attack_invalid`): `dlr` on a model with too few classes.
        """
        if self.loss == "cross_entropy":
            return -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
        towards, away = (logits.gather(1, c.unsqueeze(1)).squeeze(1) for c in (targets, labels))
        gap = towards - away
        return gap / _spread(logits, "targeted") if self.loss == "dlr" else gap

    def reached(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether each image (N,) already answers as the attacker wants.

        NaN and infinity are nobody's answer: away from the label, and not at the target.
        """
        hit = (logits.argmax(1) == labels) & torch.isfinite(logits).all(1)
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
    classes, needed = logits.shape[1], DLR_CLASSES[goal]
    if classes < needed:
        raise Invalid(
            f"loss 'dlr' needs {needed} classes or more for a {goal} run, and the model has "
            f"{classes}; use loss 'margin'",
            code="attack_invalid",
        )
    top = logits.topk(needed, dim=1).values
    return top[:, 0] - top[:, 2:].mean(1) + 1e-12
