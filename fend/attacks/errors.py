"""What goes wrong in an attack."""

from fend.errors import FendError


class AttackInvalid(FendError):
    """An attack was given something that it cannot work with, or returned something wrong."""

    code = "attack_invalid"
