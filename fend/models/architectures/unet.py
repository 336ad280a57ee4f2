"""A residual U-Net denoiser: out = x + net(x), after Liao et al. 2018 (HGD), for small images."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualUNet(nn.Module):
    """`scales` resolutions of `width`, 2x, 4x, ... `width` channels; any image size.

    With `fold` = 2 the net works at half resolution on 2x2 pixels at a time (a space-to-depth
    step), which on a CPU costs half as much for the same number of multiplications.

    No batch statistics, so that an answer never depends on its batch. No clamp at the end either:
    a clamp has zero gradient outside [0, 1], which would make white-box attacks look weak without
    making the model stronger. The image is clipped where it is shown.
    """

    def __init__(self, channels: int = 1, width: int = 32, scales: int = 2, fold: int = 1) -> None:
        super().__init__()
        if not 1 <= scales <= 8 or not 1 <= fold <= 16:
            raise ValueError(f"scales is 1 to 8 and fold 1 to 16, not {scales} and {fold}")
        self.fold = fold
        self.multiple = fold * 2 ** (scales - 1)
        folded = channels * fold**2
        widths = [width * 2**scale for scale in range(scales)]
        self.down = nn.ModuleList(
            _block(before, after, stride=1 if scale == 0 else 2)
            for scale, (before, after) in enumerate(zip([folded, *widths], widths, strict=False))
        )
        pairs = list(pairwise(widths))[::-1]
        self.lift = nn.ModuleList(nn.Conv2d(below, skip, kernel_size=1) for skip, below in pairs)
        self.merge = nn.ModuleList(_block(2 * skip, skip) for skip, _ in pairs)
        self.last = nn.Conv2d(width, folded, kernel_size=3, padding=1)
        # Starts as the identity: a denoiser should first do no harm.
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)
        self.to(memory_format=torch.channels_last)  # twice as fast on a CPU

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to cleaned images of that shape, close to that range."""
        height, width = images.shape[-2:]
        padded = F.pad(images, (0, -width % self.multiple, 0, -height % self.multiple))
        current = F.pixel_unshuffle(padded, self.fold)
        current = current.contiguous(memory_format=torch.channels_last)
        skips = []
        for block in self.down:
            current = block(current)
            skips.append(current)
        skips.pop()
        for lift, merge in zip(self.lift, self.merge, strict=True):
            raised = F.interpolate(lift(current), scale_factor=2.0, mode="nearest")
            current = merge(torch.cat([skips.pop(), raised], dim=1))
        residual = F.pixel_shuffle(self.last(current), self.fold)
        return images + residual[..., :height, :width]


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, kernel_size=3, padding=1),
        nn.ReLU(),
    )
