"""What an attack maximises: a loss, a label that it is measured against, and a direction."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import BaseModel, model_validator
from torch import Tensor
from torch.nn import functional as F

from fend.threat import sample_seeds

Loss = Literal["cross_entropy", "margin"]
LabelSource = Literal["true", "predicted", "least_likely", "random"]
Goal = Literal["untargeted", "targeted"]


class Objective(BaseModel, frozen=True, extra="forbid"):
    """How the attacked label is chosen and which way the loss is pushed.

    `predicted` keeps the label from leaking into the perturbation (Kurakin et al. 2016, eq. 2 of
    the paper as we read it); `least_likely` and `random` are targets.
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
        """The number (N,) that the attack makes as large as it can."""
        if self.loss == "cross_entropy":
            value = F.cross_entropy(logits, labels, reduction="none")
        else:
            value = _margin(logits, labels)
        return value if self.goal == "untargeted" else -value

    def reached(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether each image (N,) already answers as the attacker wants."""
        hit = logits.argmax(1) == labels
        return hit if self.goal == "targeted" else ~hit


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Best other logit minus the label's: positive once the label is no longer the answer."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), float("-inf"))
    return others.amax(1) - own
