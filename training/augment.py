"""Random changes of training images, so that a network does not learn them by heart."""

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from training.recipe.schema import AugmentSection

SHIFT_PX = 4
"""Largest shift by `shifted_and_mirrored`."""


def shifted_and_mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N,C,H,W), each shifted by up to `SHIFT_PX` (black comes in), half of them mirrored.

    `generator` is the CPU's, wherever the images are.
    """
    count, _, height, width = images.shape
    draws = torch.randint(2 * SHIFT_PX + 1, (2, count, 1), generator=generator)
    mirrored = torch.rand(count, 1, generator=generator) < 0.5
    rows = draws[0] + torch.arange(height)
    columns = draws[1] + torch.arange(width)
    columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (SHIFT_PX,) * 4)
    image = torch.arange(count).view(-1, 1, 1)
    device = images.device
    places = (image.to(device), rows.unsqueeze(2).to(device), columns.unsqueeze(1).to(device))
    picked: Tensor = padded.movedim(1, -1)[places]
    return picked.movedim(-1, 1).contiguous()


def augmented(images: Tensor, section: AugmentSection, generator: torch.Generator) -> Tensor:
    """Images (N,C,H,W) in [0, 1], each changed by chance as `section` allows; in [0, 1].

    What lies outside an image is its border, continued. `generator` is the CPU's, wherever the
    images are.
    """
    count, device = len(images), images.device

    def between(most: float, *shape: int) -> Tensor:
        return most * (2 * torch.rand(count, *shape, generator=generator) - 1)

    grid = _grid(images.shape, _homographies(images.shape, section, between)).to(device)
    changed = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if section.blur:
        share = between(section.blur, 1, 1, 1).abs().to(device)
        padded = F.pad(changed, (1, 1, 1, 1), mode="replicate")
        changed = changed + share * (F.avg_pool2d(padded, 3, stride=1) - changed)
    contrast = between(math.log(section.contrast), 1, 1, 1).exp().to(device)
    mean = changed.mean((1, 2, 3), keepdim=True)
    changed = mean + contrast * (changed - mean)
    light = between(math.log(section.brightness), 1, 1, 1)
    light = light + between(math.log(section.tint), images.shape[1], 1, 1)
    return (changed * light.exp().to(device)).clamp_(0, 1)


class Between(Protocol):
    """Draws a number for each image, even in [-most, most]: (N, *shape)."""

    def __call__(self, most: float, *shape: int) -> Tensor: ...


def _homographies(shape: torch.Size, section: AugmentSection, between: Between) -> Tensor:
    """From a place in the changed image to one in the given, both in [-1, 1]: (N,3,3)."""
    count, _, height, width = shape
    angle, size = between(math.radians(section.rotate_degrees)), between(math.log(section.scale))
    cosine, sine = angle.cos() * size.exp(), angle.sin() * size.exp()
    matrices = torch.zeros(count, 3, 3)
    matrices[:, 0, 0], matrices[:, 0, 1] = cosine, -sine * height / width
    matrices[:, 1, 0], matrices[:, 1, 1] = sine * width / height, cosine
    matrices[:, 0, 2] = between(2 * section.shift_px / width)
    matrices[:, 1, 2] = between(2 * section.shift_px / height)
    matrices[:, 2, :2] = between(section.perspective, 2)
    matrices[:, 2, 2] = 1
    if section.mirror:
        matrices[:, 0] *= torch.where(between(1.0) < 0, -1.0, 1.0).unsqueeze(1)
    return matrices


def _grid(shape: torch.Size, matrices: Tensor) -> Tensor:
    """For `F.grid_sample`: (N,H,W,2)."""
    count, _, height, width = shape
    rows, columns = ((2 * torch.arange(size) + 1) / size - 1 for size in (height, width))
    places = torch.stack(
        [columns.expand(height, width), rows.unsqueeze(1).expand(height, width),
         torch.ones(height, width)], dim=2
    ).view(1, -1, 3)  # fmt: skip
    moved = places @ matrices.transpose(1, 2)
    return (moved[..., :2] / moved[..., 2:]).view(count, height, width, 2)
