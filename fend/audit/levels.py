"""The levels of knowledge: which attacks run at each, and on what model.

| level            | attacks that run                   | the attacked model            |
|------------------|------------------------------------|-------------------------------|
| `black_box`      | gradient, that transfer; no BPDA   | the surrogate's classifier    |
| `grey_box`       | gradient, that transfer; no BPDA   | the classifier                |
| `grey_box_aware` | gradient, that transfer            | the whole surrogate           |
| `white_box`      | gradient, and noise                | the pipeline                  |
| `query`          | scores and decisions               | the pipeline, by its answers  |

An attack that seeks the smallest perturbation (`minimal`) ends at the border of the model that it
attacks, and one that drives at a class (`targets`) ends at a class of that model: neither transfers
(for targets: Liu et al. 2017). Every attack is judged on the pipeline.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from fend.attacks import AttackSpec
from fend.attacks.base import Access
from fend.attacks.gradient import Gradient
from fend.threat import Knowledge


@dataclass(frozen=True)
class Level:
    """What an attacker with some knowledge attacks."""

    access: tuple[Access, ...]
    """Kinds of attack that run, by what they take from the attacked model."""
    graph: str
    """The graph that gradients go through, in words."""
    surrogate: bool = False
    """Whether the attacked model is the attacker's own, in place of the audited one."""
    denoiser: bool = False
    """Whether the attacked model is a whole pipeline, whose denoiser BPDA can go around."""
    transfer: bool = True
    """Whether the attacked model is another than the judged one."""


LEVELS: Mapping[Knowledge, Level] = MappingProxyType(
    {
        Knowledge.BLACK_BOX: Level(("gradient",), "surrogate classifier", surrogate=True),
        Knowledge.GREY_BOX: Level(("gradient",), "classifier"),
        Knowledge.GREY_BOX_AWARE: Level(
            ("gradient",),
            "surrogate denoiser + surrogate classifier",
            surrogate=True,
            denoiser=True,
        ),
        Knowledge.WHITE_BOX: Level(
            ("gradient", "none"), "denoiser + classifier", denoiser=True, transfer=False
        ),
        Knowledge.QUERY: Level(
            ("scores", "decisions"), "none: answers only", denoiser=True, transfer=False
        ),
    }
)

NEED_SURROGATE = tuple(knowledge for knowledge, level in LEVELS.items() if level.surrogate)


def runs_at(attacker: AttackSpec, knowledge: Knowledge) -> bool:
    """Whether an attack makes sense at a level."""
    level = LEVELS[knowledge]
    if attacker.access not in level.access:
        return False
    if level.transfer and (attacker.minimal or getattr(attacker, "targets", None) is not None):
        return False
    return level.denoiser or gradient_of(attacker).denoiser == "exact"


def pairs(
    knowledge: Iterable[Knowledge], attacks: Sequence[AttackSpec]
) -> tuple[tuple[Knowledge, int], ...]:
    """What runs where: (level, place in `attacks`), in the order given."""
    return tuple(
        (level, number)
        for level in knowledge
        for number, attacker in enumerate(attacks)
        if runs_at(attacker, level)
    )


def gradient_of(attacker: AttackSpec) -> Gradient:
    """How the attack's gradient is taken; attacks without one have the plain option."""
    gradient: Gradient = getattr(attacker, "gradient", Gradient())
    return gradient
