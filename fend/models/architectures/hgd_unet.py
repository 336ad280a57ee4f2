"""The denoising U-Net of HGD (Liao et al. 2018), scaled down to small images."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FIRST_CONVOLUTIONS, CONVOLUTIONS = 2, 3
"""In the blocks at full resolution, and in all others."""


class DenoisingUNet(nn.Module):
    """Out = x + net(x); blocks of 3x3 convolution, batch norm and ReLU; any image size.

    `scales` resolutions of `width`, 2x, 4x, ... `width` channels (the authors have five, of 64 to
    256, for photographs). Batch statistics belong to training: in eval mode, as it is served and
    attacked, an answer does not depend on its batch.
    """

    def __init__(self, channels: int = 1, width: int = 32, scales: int = 3) -> None:
        super().__init__()
        if not 1 <= scales <= 8:
            raise ValueError(f"scales is 1 to 8, not {scales}")
        widths = [width * 2**scale for scale in range(scales)]
        self.down = nn.ModuleList(
            _block(before, after, _convolutions(scale), stride=1 if scale == 0 else 2)
            for scale, (before, after) in enumerate(zip([channels, *widths], widths, strict=False))
        )
        self.up = nn.ModuleList(
            _block(below + skip, skip, _convolutions(scale))
            for scale, (skip, below) in reversed(list(enumerate(pairwise(widths))))
        )
        self.last = nn.Conv2d(width, channels, kernel_size=1)
        # Starts as the identity: a denoiser should first do no harm.
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to cleaned images of that shape, close to that range."""
        current = images
        skips = []
        for block in self.down:
            current = block(current)
            skips.append(current)
        skips.pop()
        for block in self.up:
            skip = skips.pop()
            raised = F.interpolate(current, skip.shape[-2:], mode="bilinear", align_corners=False)
            current = block(torch.cat([skip, raised], dim=1))
        residual: Tensor = self.last(current)
        return images + residual


def _convolutions(scale: int) -> int:
    return FIRST_CONVOLUTIONS if scale == 0 else CONVOLUTIONS


def _block(inputs: int, outputs: int, convolutions: int, stride: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number in range(convolutions):
        layers += [
            nn.Conv2d(
                inputs if number == 0 else outputs,
                outputs,
                kernel_size=3,
                stride=stride if number == 0 else 1,
                padding=1,
                bias=False,  # the norm has its own
            ),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers)
