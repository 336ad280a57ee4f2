"""What the sanity checks share: what a check is, what it finds, and how much chance is allowed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel

from fend.audit.rows.table import Table
from fend.threat import Knowledge

BY_KNOWLEDGE = (
    Knowledge.WHITE_BOX,
    Knowledge.GREY_BOX_AWARE,
    Knowledge.GREY_BOX,
    Knowledge.BLACK_BOX,
)
"""Levels with a gradient, from the one that knows most."""


class SanityAdvice(BaseModel, frozen=True, extra="forbid"):
    """What a failed check means, and what to do."""

    raised_if: str
    means: str
    do: str


class SanityLine(BaseModel, frozen=True, extra="forbid"):
    """One check of the audit itself: did the attacks work?"""

    name: str
    passed: bool | None
    """Outcome of the check; None: not tried, and `text` says why."""
    text: str
    """The numbers, in words."""
    advice: SanityAdvice


@dataclass(frozen=True)
class Finding:
    """What a check found."""

    passed: bool | None
    """Outcome of the check; None: not tried."""
    text: str


@dataclass(frozen=True)
class Check:
    """A question about an audit, and what to make of the answer."""

    name: str
    judge: Callable[[Table], Finding]
    advice: SanityAdvice


def check(
    name: str, judge: Callable[[Table], Finding], *, raised_if: str, means: str, do: str
) -> Check:
    """A check with its advice."""
    return Check(name, judge, SanityAdvice(raised_if=raised_if, means=means, do=do))


def not_tried(reason: str) -> Finding:
    """No finding, and why."""
    return Finding(None, f"Not tried: {reason}.")


TOO_FEW = "one image may be chance, and there is no other"
NO_PROBES = "no probes ran (sanity_samples is 0)"
NOISE_POINTS = 0.5
"""Percentage points that a stronger attack may find less: more is a sign of a bad attack."""

MASKED = "The gradient does not lead where the model is weak (gradient masking)."
ADAPT = (
    "Attack in a way made for this model: BPDA for steps without a gradient, EOT for randomness, "
    "a margin or dlr loss; and quote the lower number."
)


def at_most(points: float, n: int) -> int:
    """`points` per cent of `n` images; at least one image, which may be chance."""
    return max(1, math.floor(points / 100 * n + 1e-9))


def within(found: int, points: float, n: int, text: str) -> Finding:
    """Whether `found` of `n` images are no more than `points` per cent or one, which may be
    chance; of a single image nothing follows. `text` has the numbers in words."""
    if n < 2:
        return not_tried(TOO_FEW)
    return Finding(found <= at_most(points, n), f"{text} ({allowed(points, n)}).")


def allowed(points: float, n: int) -> str:
    """`at_most` in words."""
    return f"at most {at_most(points, n)} allowed"


def strongest_level(table: Table) -> Knowledge | None:
    """The level whose attacker knows most, of those with a gradient; None: queries only."""
    return next((level for level in BY_KNOWLEDGE if table.keys_at(level)), None)


def count(number: int, noun: str) -> str:
    """Such as "1 image" or "3 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
