"""Randomness of the models themselves, which audits do not choose but can repeat."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fend.threat import sample_seeds


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
