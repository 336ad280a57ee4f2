"""What tells one request from another in answers and log lines."""

import random

# Seeded by the system, once: nobody has to be kept from guessing an id.
_DICE = random.Random()


def new_request_id() -> str:
    """16 hexadecimal digits."""
    return f"{_DICE.getrandbits(64):016x}"
