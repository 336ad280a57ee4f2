"""Adaptive noise reduction (Liang et al. 2017, arXiv 1705.08378): quantise, and smooth busy images.

The thresholds, interval widths and the radius are those of the authors' public code
(OwenSec/DeepDetector, `Test/`), which we took for want of the paper's body.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LOW_ENTROPY_BITS, HIGH_ENTROPY_BITS = 4.0, 5.0
"""Below the first an image is plain, from the second on it is busy."""
PLAIN_INTERVAL, MEDIUM_INTERVAL, BUSY_INTERVAL = 128.0, 64.0, 43.0
"""Widths in 8-bit grey levels: 2, 4 and 6 intervals. Each keeps its lowest level."""
CROSS_RADIUS_PX = 3
"""A cross of 13 pixels."""


class NoiseReduction(nn.Module):
    """Quantised to intervals that the image's entropy chooses; a busy image is smoothed as well.

    Of a busy image each pixel takes the quantised value or the smoothed one, whichever is closer
    to what it was. White keeps the lowest level of its interval (128/255 in a plain image): so
    the authors do it.

    Every step rounds or selects: the gradient is zero everywhere. That hides nothing from an
    attacker who takes the gradient as if this step were not there (BPDA), and audits do.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to images of the same shape and range."""
        entropy = entropy_bits(images).view(-1, 1, 1, 1)
        interval = torch.full_like(entropy, PLAIN_INTERVAL)
        interval = interval.masked_fill(entropy >= LOW_ENTROPY_BITS, MEDIUM_INTERVAL)
        interval = interval.masked_fill(entropy >= HIGH_ENTROPY_BITS, BUSY_INTERVAL)
        quantised = torch.floor(images * 255 / interval) * interval / 255
        smoothed = cross_mean(quantised, CROSS_RADIUS_PX)
        closer = (quantised - images).abs() < (smoothed - images).abs()
        busy = entropy >= HIGH_ENTROPY_BITS
        return torch.where(closer | ~busy, quantised, smoothed)


def entropy_bits(images: Tensor) -> Tensor:
    """How busy each image is, (N,) in 0..8: the entropy of its 8-bit levels, mean over channels."""
    levels = (images.detach() * 255).round().long().clamp(0, 255).flatten(2)
    counts = images.new_zeros(*levels.shape[:2], 256)
    counts.scatter_add_(2, levels, torch.ones_like(levels, dtype=counts.dtype))
    shares = counts / levels.shape[2]
    return -torch.xlogy(shares, shares).sum(2).mean(1) / torch.log(shares.new_tensor(2.0))


def cross_mean(images: Tensor, radius_px: int) -> Tensor:
    """The mean over a cross around each pixel; those closer to the border than its arms stay."""
    side = 2 * radius_px + 1
    if min(images.shape[-2:]) < side:
        return images
    cross = images.new_zeros(side, side)
    cross[radius_px, :] = cross[:, radius_px] = 1.0
    kernel = (cross / cross.sum()).expand(images.shape[1], 1, side, side)
    inner = F.conv2d(images, kernel, groups=images.shape[1])
    smoothed = images.clone()
    smoothed[..., radius_px:-radius_px, radius_px:-radius_px] = inner
    return smoothed
