"""Audits by name: fields of an `AuditSpec`, from a first look to a weekend."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from fend.attacks import (
    APGD,
    FAB,
    FGSM,
    MIFGSM,
    PGD,
    AttackSpec,
    Gradient,
    HopSkipJump,
    Objective,
    Square,
    needs_classes,
)
from fend.threat import Knowledge

_GREY_AND_WHITE = (Knowledge.GREY_BOX, Knowledge.WHITE_BOX)
_PAST = Gradient(denoiser="identity")
_DLR, _MARGIN = Objective(loss="dlr"), Objective(loss="margin")
_FEATURES = Objective(loss="feature_distance")

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # A first look: under a minute on two cores.
        "quick": {
            "samples": 200,
            "knowledge": _GREY_AND_WHITE,
            "attacks": (FGSM(), PGD(steps=20), PGD(steps=20, random_start=False)),
            "sanity_samples": 50,
            "shard_size": 25,
        },
        # The paper, section 4.2: FGSM and PGD at epsilon 0.2, over the whole test set.
        "paper": {
            "samples": None,
            "knowledge": _GREY_AND_WHITE,
            "attacks": (FGSM(), PGD(steps=100, step_size=0.1)),
            "shard_size": 100,
        },
        # What an honest claim needs: the parts of AutoAttack (Croce & Hein 2020), attacks made for
        # denoisers, every kind of attacker, a curve. Half an hour on two cores for small images.
        "standard": {
            "samples": 1_000,
            "knowledge": tuple(Knowledge),
            "cascade": True,
            "attacks": (
                PGD(steps=100, random_start=False),
                APGD(steps=100),
                PGD(steps=100, objective=_FEATURES),
                PGD(steps=100, gradient=_PAST),
                MIFGSM(steps=50),
                APGD(steps=100, targets=9, objective=_DLR),
                FAB(steps=50, targets=9),
                Square(queries=5_000),
            ),
            "epsilons": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5),
            "shard_size": 25,
        },
        # The same and more on every image, each attack on all of them: hours to days.
        "thorough": {
            "samples": None,
            "knowledge": tuple(Knowledge),
            "attacks": (
                PGD(steps=100, random_start=False),
                PGD(steps=100, random_start=False, objective=_MARGIN),
                APGD(steps=100, restarts=5),
                APGD(steps=100, restarts=5, objective=_DLR),
                PGD(steps=100, restarts=5, objective=_FEATURES),
                PGD(steps=100, restarts=5, gradient=_PAST),
                MIFGSM(steps=50),
                APGD(steps=100, targets=9, objective=_DLR),
                FAB(steps=100, targets=9, restarts=2),
                Square(queries=10_000),
                HopSkipJump(queries=5_000),
            ),
            "epsilons": (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.5),
            "sanity_samples": 500,
            "shard_size": 25,
        },
    }
)

ABOUT: Mapping[str, str] = MappingProxyType(
    {
        "quick": "a quick look: few images and a small budget; standard is for a claim",
        "paper": "the attacks of the paper, which are not the strongest that there are",
        "standard": "what a claim about robustness needs",
        "thorough": "every attack on every image",
    }
)
"""What each preset is good for, in the words of a report."""

DLR_FROM = 4
"""Classes from which loss `dlr` is used, which compares up to four logits."""


def scaled(preset: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """`preset` with its distances, which are made for MNIST, times `factor`."""
    fields = dict(preset)
    if "epsilons" in preset:
        fields["epsilons"] = tuple(round(factor * epsilon, 6) for epsilon in preset["epsilons"])
    fields["attacks"] = tuple(
        attacker.model_copy(update={"step_size": factor * attacker.step_size})
        if getattr(attacker, "step_size", None) is not None
        else attacker
        for attacker in preset["attacks"]
    )
    return fields


def fitted(attacks: Iterable[AttackSpec], classes: int) -> tuple[AttackSpec, ...]:
    """`attacks` as they can run on a model of so many classes; those that cannot are left out.

    No more targets than wrong classes, and below four classes `margin` in place of `dlr`.
    """
    found = []
    for attacker in attacks:
        targets = getattr(attacker, "targets", None)
        if targets is not None and targets >= classes > 1:
            attacker = attacker.model_copy(update={"targets": classes - 1})
        if attacker.objective.loss == "dlr" and classes < DLR_FROM:
            objective = attacker.objective.model_copy(update={"loss": "margin"})
            attacker = attacker.model_copy(update={"objective": objective})
        if needs_classes(attacker) <= classes:
            found.append(attacker)
    return tuple(dict.fromkeys(found))
