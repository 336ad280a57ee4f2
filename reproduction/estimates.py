"""A mean over seeds with its interval, which covers the draw of the images and of the seed.

The half-width is the root of the sum of two squares: that of the interval over images (Wilson; for
a difference on the same images Bonett and Price), and that of the mean over seeds (Student). With
one seed the second is not known and left out, and `seeds` says so.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict

from fend.audit.rows.statistics import mcnemar_p_value, paired_difference_interval, wilson_interval
from reproduction.result import Measured

_STUDENT_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5 % point of Student's distribution with 1, 2, ... degrees of freedom."""

LEVEL = 0.001


class Estimate(BaseModel):
    """An accuracy, or a difference of two; shares, not percent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: float
    spread: float | None
    """Standard deviation over seeds; None with one."""
    low: float
    high: float
    """95 %."""
    seeds: int
    n: int
    """Images."""


def estimate(measured: Sequence[Measured]) -> Estimate:
    """The mean accuracy of one cell's seeds."""
    shares = [item.accuracy for item in measured]
    n = measured[0].n
    mean = fmean(shares)
    low, high = wilson_interval(round(mean * n), n)
    of_seeds = _half_width(shares)
    return Estimate(
        mean=mean,
        spread=_spread(shares),
        low=max(0.0, mean - math.hypot(mean - low, of_seeds)),
        high=min(1.0, mean + math.hypot(high - mean, of_seeds)),
        seeds=len(shares),
        n=n,
    )


def difference(ours: Sequence[Measured], others: Sequence[Measured]) -> Estimate:
    """Ours minus the others', seed by seed on the same images; both know which were wrong."""
    n = ours[0].n
    pairs = list(zip(ours, others, strict=True))
    changes = [a.accuracy - b.accuracy for a, b in pairs]
    mean = fmean(changes)
    gained = round(fmean(len(b.wrong_ranks - a.wrong_ranks) for a, b in pairs))
    lost = round(fmean(len(a.wrong_ranks - b.wrong_ranks) for a, b in pairs))
    low, high = paired_difference_interval(gained, lost, n)
    of_seeds = _half_width(changes)
    return Estimate(
        mean=mean,
        spread=_spread(changes),
        low=max(-1.0, mean - math.hypot(mean - low, of_seeds)),
        high=min(1.0, mean + math.hypot(high - mean, of_seeds)),
        seeds=len(changes),
        n=n,
    )


def leaves_more(stronger: Measured, weaker: Measured) -> bool:
    """Whether the attack that should be the stronger one leaves more images right, beyond what
    chance explains.

    A table makes some hundred such comparisons, so the level is 0.001 (McNemar's test), lest some
    of them be flagged for nothing.
    """
    gained = len(weaker.wrong_ranks - stronger.wrong_ranks)
    lost = len(stronger.wrong_ranks - weaker.wrong_ranks)
    return gained > lost and mcnemar_p_value(gained, lost) < LEVEL


def _spread(values: Sequence[float]) -> float | None:
    return stdev(values) if len(values) > 1 else None


def _half_width(values: Sequence[float]) -> float:
    count = len(values)
    if count < 2:
        return 0.0
    quantile = _STUDENT_95[min(count - 2, len(_STUDENT_95) - 1)]
    return quantile * stdev(values) / math.sqrt(count)
