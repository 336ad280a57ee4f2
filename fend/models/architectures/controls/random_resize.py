"""A control: a randomised denoiser, which shrinks and moves each image at every pass."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RandomResize(nn.Module):
    """Each image at a random scale of `smallest` to 1 and at a random place on black.

    After the random resizing and padding of Xie et al. 2018, which EOT breaks (Athalye et al.
    2018). Draws from torch's global generator, so that no two passes are alike: the one module
    here whose answers cannot be repeated, on purpose.

    Raises:
        ValueError: `smallest` is not in (0, 1].
    """

    def __init__(self, smallest: float = 0.8) -> None:
        super().__init__()
        if not 0 < smallest <= 1:
            raise ValueError(f"smallest is above 0 and at most 1, not {smallest}")
        self.smallest = smallest

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to images of the same shape and range."""
        draws = torch.rand(len(images), 3, device=images.device, dtype=images.dtype)
        scale = self.smallest + (1.0 - self.smallest) * draws[:, 0]
        # In units of half an image: a smaller picture has more room to move.
        right, down = ((2.0 * draws[:, 1:] - 1.0) * (1.0 - scale).unsqueeze(1)).unbind(1)
        zero = torch.zeros_like(scale)
        from_output = torch.stack([1.0 / scale, zero, -right / scale,
                                   zero, 1.0 / scale, -down / scale], dim=1)  # fmt: skip
        grid = F.affine_grid(from_output.view(-1, 2, 3), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, mode="bilinear", align_corners=False)
