"""Non-local means (Buades et al. 2005): the third squeezer of Xu et al. 2018."""

from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NonLocalMeans(nn.Module):
    """Each pixel becomes a mean of those around it, weighted by how alike their patches are.

    The weight is exp(-d / h^2), where d is the mean squared difference of two patches and h is
    `strength` / 255. Xu et al. write the options as search-patch-strength: 11-3-4 for CIFAR-10.
    They call OpenCV, which compares colours in Lab; this compares them as they are. Beyond the
    border the last pixel is repeated.

    Differentiable, with a useful gradient.

    Raises:
        ValueError: a size that is even or not in 1..51, or a strength that is not positive.
    """

    def __init__(self, search_px: int = 11, patch_px: int = 3, strength: float = 4.0) -> None:
        super().__init__()
        for name, size in (("search_px", search_px), ("patch_px", patch_px)):
            if size not in range(1, 52, 2):
                raise ValueError(f"{name} is odd and in 1..51, not {size}")
        if not strength > 0:
            raise ValueError(f"strength is above 0, not {strength}")
        self.search_px, self.patch_px = search_px, patch_px
        self.squared_h = (strength / 255) ** 2

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to images of the same shape and range."""
        height, width = images.shape[-2:]
        reach, half = self.search_px // 2, self.patch_px // 2
        padded = F.pad(images, (reach + half,) * 4, mode="replicate")
        total = torch.zeros_like(images)
        weights = torch.zeros_like(images[:, :1])

        def shifted(down: int, right: int) -> Tensor:
            """The images moved by so much, with a margin for the patches."""
            rows = padded.narrow(2, down, height + 2 * half)
            return rows.narrow(3, right, width + 2 * half)

        here = shifted(reach, reach)
        for down, right in product(range(self.search_px), repeat=2):
            there = shifted(down, right)
            difference = (here - there).square().mean(1, keepdim=True)
            distance = F.avg_pool2d(difference, self.patch_px, stride=1)
            weight = torch.exp(-distance / self.squared_h)
            total = total + weight * there[..., half : half + height, half : half + width]
            weights = weights + weight
        return total / weights
