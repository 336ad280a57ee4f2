"""Accuracy of a model on held-out images, clean and attacked."""

import torch
from torch import Tensor, nn

from fend.attacks import PGD, attack
from fend.datasets import ImageSet
from fend.threat import ThreatModel

WHITE_BOX_IMAGES = 500
"""Number of held-out images that are attacked after each epoch of adversarial training."""


@torch.no_grad()
def accuracy(model: nn.Module, images: ImageSet, pixels: Tensor | None = None) -> float:
    """Share of `images` that `model` labels right; `pixels` (N,C,H,W) replace them if given."""
    device = device_of(model)
    right = 0
    for indices in torch.split(torch.arange(len(images)), 500):
        batch = images.pixels(indices) if pixels is None else pixels[indices].float()
        answers = model(batch.to(device)).argmax(1).cpu()
        right += int((answers == images.labels[indices]).sum())
    return right / len(images)


def white_box_accuracy(model: nn.Module, images: ImageSet, threat: ThreatModel) -> float:
    """Accuracy under PGD-10 through all of `model`: weak, but comparable between epochs."""
    chosen = slice(0, WHITE_BOX_IMAGES)
    device = device_of(model)
    pixels, labels = images.pixels(chosen).to(device), images.labels[chosen].to(device)
    result = attack(PGD(steps=10), model, pixels, labels, threat)
    return 1.0 - float(result.fooled.float().mean())


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's parameters."""
    return next(model.parameters()).device
