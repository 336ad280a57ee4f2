"""Accuracy of a model on held-out images, clean and attacked."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fend.attacks import PGD, Attack, attack
from fend.datasets import ImageSet
from fend.models.memory import images_at_once
from fend.threat import ThreatModel

WHITE_BOX_IMAGES = 500
"""Number of held-out images that are attacked after each epoch of adversarial training."""
BATCH = 500
"""Images in a pass, where memory allows it."""


@torch.no_grad()
def accuracy(model: nn.Module, images: ImageSet, pixels: Tensor | None = None) -> float:
    """Share of `images` that `model` labels right; `pixels` (N,C,H,W) replace them if given."""
    device = device_of(model)
    right = 0
    for indices in parts(model, images):
        batch = images.pixels(indices) if pixels is None else pixels[indices].float()
        answers = model(batch.to(device)).argmax(1).cpu()
        right += int((answers == images.labels[indices]).sum())
    return right / len(images)


def white_box_accuracy(model: nn.Module, images: ImageSet, threat: ThreatModel) -> float:
    """Accuracy under PGD-10 through all of `model`: weak, but comparable between epochs."""
    ids = torch.arange(min(WHITE_BOX_IMAGES, len(images)))
    fooled = [part for _, part in attacked(PGD(steps=10), model, images, ids, threat)]
    return 1.0 - float(torch.cat(fooled).float().mean())


def attacked(
    attacker: Attack,
    model: nn.Module,
    images: ImageSet,
    ids: Tensor,
    threat: ThreatModel,
    seed: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images with the numbers `ids` (N,) under an attack, so many at a time as memory allows:
    adversarial ones (n,C,H,W), and which of them fool `model` (n,)."""
    device = device_of(model)
    for part in parts(model, images, ids):
        pixels, labels = images.pixels(part).to(device), images.labels[part].to(device)
        numbers = part.tolist()
        result = attack(attacker, model, pixels, labels, threat, seed=seed, sample_ids=numbers)
        yield result.adversarial, result.fooled


def parts(model: nn.Module, images: ImageSet, ids: Tensor | None = None) -> tuple[Tensor, ...]:
    """The numbers of all images, or `ids`, in batches that memory allows a pass of `model`."""
    ids = torch.arange(len(images)) if ids is None else ids
    shape = tuple(images.images.shape[1:])
    return torch.split(ids, images_at_once(model, shape, min(BATCH, len(ids))))


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's parameters."""
    return next(model.parameters()).device
