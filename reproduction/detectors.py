"""Detectors: does an image look adversarial? As the authors of two untrained defences use them.

A detector is one more thing for an attacker to take into account, not a defence by itself.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fend.errors import Invalid

FALSE_POSITIVE_RATE = 0.05
"""The share of clean images that Xu et al. let their detector flag."""

Images = Callable[[Tensor], Tensor]
"""Images (N,C,H,W) in [0, 1] to images of the same shape."""
Logits = Callable[[Tensor], Tensor]
"""Images (N,C,H,W) in [0, 1] to logits (N, classes)."""


@torch.no_grad()
def squeezing_scores(classifier: Logits, images: Tensor, squeezers: Sequence[Images]) -> Tensor:
    """How far squeezing moves the answers, (N,) in [0, 2] (Feature Squeezing, Xu et al. 2018).

    The L1 distance between the class probabilities of an image (N,C,H,W) and of its squeezed
    copy, the largest over all `squeezers`. An image is flagged when its score is above
    `threshold_at` of clean images.

    Raises:
        Invalid: there is no squeezer (`detector_invalid`).
    """
    if not squeezers:
        raise Invalid("feature squeezing needs one squeezer or more", code="detector_invalid")
    plain = classifier(images).softmax(1)
    moved = [(classifier(squeeze(images)).softmax(1) - plain).abs().sum(1) for squeeze in squeezers]
    return torch.stack(moved).amax(0)


@torch.no_grad()
def class_changes(classifier: Logits, images: Tensor, reduce_noise: Images) -> Tensor:
    """Whether the answer changes when noise is taken out, bool (N,) (Liang et al. 2017).

    True is flagged; there is no threshold to set.
    """
    changed = classifier(images).argmax(1) != classifier(reduce_noise(images)).argmax(1)
    return changed


def threshold_at(clean_scores: Tensor, false_positive_rate: float = FALSE_POSITIVE_RATE) -> float:
    """The lowest threshold with at most this share of `clean_scores` (N,) above it.

    Set it on images other than those that a detection rate is reported on.

    Raises:
        Invalid: no score, a score that is not finite, or a rate outside [0, 1)
            (`detector_invalid`).
    """
    if clean_scores.ndim != 1 or not len(clean_scores) or not clean_scores.isfinite().all():
        raise Invalid(
            "clean_scores must be a list of finite numbers, and not empty", code="detector_invalid"
        )
    if not 0 <= false_positive_rate < 1:
        raise Invalid(
            f"false_positive_rate is 0 or more and below 1, not {false_positive_rate}",
            code="detector_invalid",
        )
    above = math.floor(false_positive_rate * len(clean_scores))
    return float(clean_scores.sort(descending=True).values[above])
