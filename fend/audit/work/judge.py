"""What the pipeline answers to images: the judge of every line, and the rule for random answers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fend.pipeline import Defence
from fend.threat import sample_seeds

DRAWS = 5
"""Passes that decide an answer of a pipeline that answers at random."""

_Decision = tuple[int | None, float | None]
"""A class and its probability, or nothing where a logit was NaN or infinite."""


@dataclass(frozen=True)
class Judged:
    """Class indices with their probabilities; None where a logit was NaN or infinite."""

    defended: int | None
    confidence: float | None
    undefended: int | None
    """Answer of the classifier alone."""
    undefended_confidence: float | None


def judge(defence: Defence, images: Tensor, randomised: bool) -> list[Judged]:
    """The answers (N) of a pipeline.

    With `randomised` the answer is the class that most of `DRAWS` fresh passes give, made after
    the attack is over (on a tie the one that was drawn first); its confidence is the mean of the
    passes that gave it.
    """
    defended: list[list[_Decision]] = []
    undefended: list[list[_Decision]] = []
    for _ in range(DRAWS if randomised else 1):
        with torch.no_grad():
            drawn = defence.answer(images)
        defended.append(_decide(drawn.logits))
        undefended.append(_decide(drawn.undefended_logits))
    return [
        Judged(*_most(own), *_most(alone))
        for own, alone in zip(
            zip(*defended, strict=True), zip(*undefended, strict=True), strict=True
        )
    ]


def _decide(logits: Tensor) -> list[_Decision]:
    finite = torch.isfinite(logits).all(1).tolist()
    confidences, classes = logits.softmax(1).max(1)
    return [
        (index, confidence) if is_finite else (None, None)
        for is_finite, index, confidence in zip(
            finite, classes.tolist(), confidences.tolist(), strict=True
        )
    ]


def _most(draws: Sequence[_Decision]) -> _Decision:
    if len(draws) == 1:
        return draws[0]
    [(winner, _)] = Counter(index for index, _ in draws).most_common(1)
    agreed = [confidence for index, confidence in draws if index == winner]
    known = [confidence for confidence in agreed if confidence is not None]
    return winner, sum(known) / len(known) if known else None


@contextmanager
def seeded(seed: int, what: str, device: torch.device) -> Iterator[None]:
    """Inside, a model that draws from torch's global generator draws the same numbers each time.

    The draws of an image still depend on its batch, since the model draws for all of it at once.
    Attacks never use the global generator.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(sample_seeds(seed, [0], what)[0])
        yield
