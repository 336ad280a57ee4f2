"""Attacks, one a file: the options are a pydantic model, `perturb` is a pure function."""

from typing import Annotated

from pydantic import Field

from fend.attacks.base import Attack, AttackInvalid, AttackResult, Predict, attack
from fend.attacks.fgsm import FGSM
from fend.attacks.objective import Objective
from fend.attacks.pgd import PGD

AttackSpec = Annotated[FGSM | PGD, Field(discriminator="name")]
"""Any attack, told apart by `name`: what recipes and audit requests hold."""

__all__ = [
    "FGSM",
    "PGD",
    "Attack",
    "AttackInvalid",
    "AttackResult",
    "AttackSpec",
    "Objective",
    "Predict",
    "attack",
]
