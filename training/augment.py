"""Other versions of the training images: what a photograph or a hand could as well have made."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

SHIFT_PX = 4

# How far `distorted` goes at most. Slant is what writers differ in most.
TURN_RAD = math.radians(10)
SLANT = 0.2
"""Pixels sideways a pixel up."""
STRETCH = 0.15
"""Of the width and of the height, each for itself."""
MOVE_PX = 1.5
UNTOUCHED = 0.25
"""The share of images that stay as they are: resampling takes the edge off a stroke."""


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N,C,H,W), each shifted by up to `SHIFT_PX` (black comes in), half of them mirrored,
    as is usual for photographs.

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


def distorted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images (N,C,H,W) in [0, 1], most of them turned, slanted, stretched and moved a little (black
    comes in), as is usual for handwriting.

    `generator` is the CPU's, wherever the images are.
    """
    count, _, height, width = images.shape
    draws = torch.rand(6, count, generator=generator)
    turn, slant, wide, high, right, down = 2 * draws - 1
    cos, sin = torch.cos(TURN_RAD * turn), torch.sin(TURN_RAD * turn)
    # From places of the new image to places of the old one; a side is 2 long.
    rows = torch.stack(
        [cos + SLANT * slant * sin, SLANT * slant * cos - sin, 2 * MOVE_PX / width * right], dim=1
    ) / (1 + STRETCH * wide.unsqueeze(1))
    columns = torch.stack([sin, cos, 2 * MOVE_PX / height * down], dim=1)
    columns = columns / (1 + STRETCH * high.unsqueeze(1))
    places = F.affine_grid(torch.stack([rows, columns], dim=1), list(images.shape), False)
    made = F.grid_sample(
        images, places.to(images.device), mode="bicubic", align_corners=False
    ).clamp(0.0, 1.0)
    stay = torch.rand(count, 1, 1, 1, generator=generator) < UNTOUCHED
    return torch.where(stay.to(images.device), images, made)
