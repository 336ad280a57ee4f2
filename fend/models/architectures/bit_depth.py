"""Fewer grey levels: the first squeezer of Feature Squeezing (Xu et al. 2018)."""

import torch
from torch import Tensor, nn


class BitDepth(nn.Module):
    """Each sample rounded to the nearest of 2 ** `bits` levels between 0 and 1.

    Rounding has a gradient of zero everywhere. That hides nothing from an attacker who takes the
    gradient as if this step were not there (BPDA), and audits do.

    Raises:
        ValueError: `bits` is not in 1..8.
    """

    def __init__(self, bits: int) -> None:
        super().__init__()
        if not 1 <= bits <= 8:
            raise ValueError(f"bits is 1 to 8, not {bits}")
        self.highest = 2**bits - 1

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to images of the same shape and range."""
        rounded: Tensor = torch.round(images * self.highest) / self.highest
        return rounded
