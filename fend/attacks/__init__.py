"""Attacks, one a file: the options are a pydantic model, `perturb` is a pure function."""

from typing import Annotated

from pydantic import Field

from fend.attacks.apgd import APGD
from fend.attacks.base import Attack, AttackResult, Predict, attack
from fend.attacks.errors import AttackInvalid
from fend.attacks.fgsm import FGSM
from fend.attacks.mi_fgsm import MIFGSM
from fend.attacks.noise import Noise
from fend.attacks.objective import Objective
from fend.attacks.pgd import PGD
from fend.attacks.square import Square

AttackSpec = Annotated[
    FGSM | PGD | APGD | MIFGSM | Square | Noise,
    Field(discriminator="name"),
]
"""Any attack, told apart by `name`: what recipes and audit requests hold."""

__all__ = [
    "APGD",
    "FGSM",
    "MIFGSM",
    "PGD",
    "Attack",
    "AttackInvalid",
    "AttackResult",
    "AttackSpec",
    "Noise",
    "Objective",
    "Predict",
    "Square",
    "attack",
]
