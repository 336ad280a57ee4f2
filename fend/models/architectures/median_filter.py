"""The median of each pixel's neighbourhood: the second squeezer of Xu et al. 2018."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MedianFilter(nn.Module):
    """A sliding window of `size_px` x `size_px`; beyond the border the last pixel is repeated.

    Of an even number of samples the upper of the middle two counts, and an even window reaches
    one pixel further up and left than down and right: as scipy, and so the authors, have it.

    Each output has the gradient of the one pixel that was picked. An attacker may do better with
    the gradient of the identity (BPDA); audits try both.

    Raises:
        ValueError: `size_px` is not in 2..15.
    """

    def __init__(self, size_px: int = 2) -> None:
        super().__init__()
        if not 2 <= size_px <= 15:
            raise ValueError(f"size_px is 2 to 15, not {size_px}")
        self.size_px = size_px

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to images of the same shape and range."""
        before, after = self.size_px // 2, (self.size_px - 1) // 2
        padded = F.pad(images, (before, after, before, after), mode="replicate")
        windows = padded.unfold(2, self.size_px, 1).unfold(3, self.size_px, 1).flatten(4)
        return torch.kthvalue(windows, self.size_px**2 // 2 + 1, dim=4).values
