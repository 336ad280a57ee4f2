"""Which attacks run at which level of knowledge, how they run there, and on what model.

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

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from fend.attacks import AttackSpec
from fend.attacks.base import Access
from fend.attacks.gradient import Gradient
from fend.threat import Knowledge

if TYPE_CHECKING:
    from fend.audit.spec import AuditSpec

ACCESS: Mapping[Knowledge, tuple[Access, ...]] = MappingProxyType(
    {
        Knowledge.BLACK_BOX: ("gradient",),
        Knowledge.GREY_BOX: ("gradient",),
        Knowledge.GREY_BOX_AWARE: ("gradient",),
        Knowledge.WHITE_BOX: ("gradient", "none"),
        Knowledge.QUERY: ("scores", "decisions"),
    }
)
"""What an attack may take from the attacked model."""

TRANSFER = (Knowledge.BLACK_BOX, Knowledge.GREY_BOX, Knowledge.GREY_BOX_AWARE)
"""The attacked model is not the judged one."""

WITH_DENOISER = (Knowledge.GREY_BOX_AWARE, Knowledge.WHITE_BOX)
"""The gradient goes through a denoiser, which BPDA can pass by."""

NEED_SURROGATE = (Knowledge.BLACK_BOX, Knowledge.GREY_BOX_AWARE)

_THROUGH: Mapping[Knowledge, str] = MappingProxyType(
    {
        Knowledge.BLACK_BOX: "surrogate classifier",
        Knowledge.GREY_BOX: "classifier",
        Knowledge.GREY_BOX_AWARE: "surrogate denoiser + surrogate classifier",
        Knowledge.WHITE_BOX: "denoiser + classifier",
        Knowledge.QUERY: "none: answers only",
    }
)


def runs_at(attacker: AttackSpec, knowledge: Knowledge) -> bool:
    """Whether an attack makes sense at a level."""
    if attacker.access not in ACCESS[knowledge]:
        return False
    if knowledge in TRANSFER and (attacker.minimal or _has_targets(attacker)):
        return False
    return gradient_of(attacker).denoiser == "exact" or knowledge in WITH_DENOISER


def _has_targets(attacker: AttackSpec) -> bool:
    return getattr(attacker, "targets", None) is not None


def pairs(spec: "AuditSpec") -> tuple[tuple[Knowledge, int], ...]:
    """The lines of an audit: (level, place of the attack in the spec), in the spec's order."""
    return tuple(
        (knowledge, number)
        for knowledge in spec.knowledge
        for number, attacker in enumerate(spec.attacks)
        if runs_at(attacker, knowledge)
    )


def attack_at(attacker: AttackSpec, knowledge: Knowledge, randomised: bool = False) -> AttackSpec:
    """`attacker` as it is run at a level: it stops early only where that decides nothing.

    Where the attacked model is not the judged one, it is fooled long before the image also fools
    the pipeline. Where the pipeline answers at random, one lucky answer would end the attack.
    """
    whole = knowledge in TRANSFER or randomised
    if whole and "early_stop" in type(attacker).model_fields:
        return attacker.model_copy(update={"early_stop": False})
    return attacker


def gradient_of(attacker: AttackSpec) -> Gradient:
    """How the attack's gradient is taken; attacks without one have the plain option."""
    gradient: Gradient = getattr(attacker, "gradient", Gradient())
    return gradient


def gradient_through(attacker: AttackSpec, knowledge: Knowledge) -> str:
    """The graph that the gradient went through, in words."""
    if attacker.access == "none":
        return "none: random points"
    text = _THROUGH[knowledge]
    gradient = gradient_of(attacker)
    if gradient.denoiser == "identity":
        text = text.replace("denoiser", "denoiser (backward: identity)", 1)
    if gradient.samples > 1:
        text += f", mean of {gradient.samples}"
    return text
