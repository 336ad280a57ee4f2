"""A residual U-Net denoiser: out = x + net(x), after Liao et al. 2018 (HGD), for small images."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, kernel_size=3, padding=1),
        nn.ReLU(),
    )


class ResidualUNet(nn.Module):
    """Three scales of `width`, 2x and 4x `width` channels; any image size.

    No batch statistics, so that an answer never depends on its batch. No clamp at the end either:
    a clamp has zero gradient outside [0, 1], which would make white-box attacks look weak without
    making the model stronger. Whoever shows the image clips it.
    """

    def __init__(self, channels: int = 1, width: int = 16) -> None:
        super().__init__()
        self.fine = _block(channels, width)
        self.middle = _block(width, 2 * width, stride=2)
        self.coarse = _block(2 * width, 4 * width, stride=2)
        self.lift_middle = nn.Conv2d(4 * width, 2 * width, kernel_size=1)
        self.merge_middle = _block(4 * width, 2 * width)
        self.lift_fine = nn.Conv2d(2 * width, width, kernel_size=1)
        self.merge_fine = _block(2 * width, width)
        self.last = nn.Conv2d(width, channels, kernel_size=3, padding=1)
        # Starts as the identity: a denoiser should first do no harm.
        nn.init.zeros_(self.last.weight)
        if self.last.bias is not None:
            nn.init.zeros_(self.last.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to cleaned images of that shape, close to that range."""
        fine = self.fine(images)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        middle = self.merge_middle(_join(middle, self.lift_middle(coarse)))
        fine = self.merge_fine(_join(fine, self.lift_fine(middle)))
        residual: Tensor = self.last(fine)
        return images + residual


def _join(skip: Tensor, below: Tensor) -> Tensor:
    """Upsample `below` to the size of `skip` and stack the two."""
    raised = F.interpolate(below, size=skip.shape[-2:], mode="nearest")
    return torch.cat([skip, raised], dim=1)
