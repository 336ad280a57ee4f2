"""A classifier alone beside itself behind its denoiser."""

from pathlib import Path

import torch
from torch import nn

from fend.attacks import PGD
from fend.bundles import annotate, load_bundle
from fend.datasets import ImageSet
from fend.threat import ThreatModel
from training.card import model_card
from training.evaluate import accuracy, attacked

COMPARED_LEVELS = (2, 4, 8)
"""Epsilons, in 255ths."""
COMPARED_IMAGES, COMPARED_STEPS = 100, 10


def compare(
    alone: nn.Module, folder: Path, images: ImageSet, count: int, device: torch.device
) -> dict[str, tuple[float, float]]:
    """How often the classifier alone, and the whole at `folder`, are right: clean, and each under a
    white-box attack of its own. What is found goes to the bundle's manifest and card."""
    bundle = load_bundle(folder, device)
    chosen = images.subset(images.sample(count, 0))
    rows = {
        f"{level}/255" if level else "clean": (
            _right(alone, chosen, level), _right(bundle.defence, chosen, level)
        )
        for level in (0, *COMPARED_LEVELS)
    }  # fmt: skip
    beside = {
        "dataset": images.name,
        "images": len(chosen),
        "attacks": [f"PGD-{COMPARED_STEPS}"],
        "rows": {key: list(row) for key, row in rows.items()},
    }
    about = {**bundle.manifest.about, "beside": beside}
    annotate(folder, about, model_card(bundle.manifest.name, about))
    return rows


def _right(model: nn.Module, images: ImageSet, level: int) -> float:
    if not level:
        return accuracy(model, images)
    threat = ThreatModel(norm="linf", epsilon=level / 255)
    attacker, ids = PGD(steps=COMPARED_STEPS), torch.arange(len(images))
    found = [fooled for _, fooled in attacked(attacker, model, images, ids, threat)]
    return 1 - float(torch.cat(found).double().mean())
