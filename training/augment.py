"""Shifted and mirrored versions of images, as is usual for photographs."""

import torch
from torch import Tensor
from torch.nn import functional as F

SHIFT_PX = 4


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
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
