"""Attacks, one a file: the options are a pydantic model, `perturb` is a pure function."""

from typing import Annotated

from pydantic import Field

from fend.attacks.apgd import APGD
from fend.attacks.base import Access, Attack, AttackResult, attack, needs_classes
from fend.attacks.bim import BIM
from fend.attacks.cw_l2 import CWL2
from fend.attacks.deepfool import DeepFool
from fend.attacks.fab import FAB
from fend.attacks.fgsm import FGSM
from fend.attacks.gradient import Gradient
from fend.attacks.hop_skip_jump import HopSkipJump
from fend.attacks.mi_fgsm import MIFGSM
from fend.attacks.noise import Noise
from fend.attacks.objective import Objective
from fend.attacks.pgd import PGD
from fend.attacks.square import Square
from fend.attacks.victim import FeaturePredict, Predict

AttackSpec = Annotated[
    FGSM | BIM | PGD | APGD | MIFGSM | FAB | DeepFool | CWL2 | Square | HopSkipJump | Noise,
    Field(discriminator="name"),
]
"""Any attack, told apart by `name`: what recipes and audit requests hold."""

__all__ = [
    "APGD",
    "BIM",
    "CWL2",
    "FAB",
    "FGSM",
    "MIFGSM",
    "PGD",
    "Access",
    "Attack",
    "AttackResult",
    "AttackSpec",
    "DeepFool",
    "FeaturePredict",
    "Gradient",
    "HopSkipJump",
    "Noise",
    "Objective",
    "Predict",
    "Square",
    "attack",
    "needs_classes",
]
