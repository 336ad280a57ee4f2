"""A shallow denoiser without a residual, as interval bounds can be propagated through."""

import torch
from torch import Tensor, nn


class PlainDenoiser(nn.Module):
    """Two convolutions with a ReLU between them; starts as the identity.

    A residual would add the width of the input's box to that of the network's, whatever the network
    has learnt. Two ReLUs of one pixel make a threshold, which narrows the box instead.
    """

    def __init__(self, channels: int = 1, width: int = 8) -> None:
        super().__init__()
        if width < channels:
            raise ValueError(f"width is {channels} or more, as many as the images have channels")
        first = nn.Conv2d(channels, width, kernel_size=3, padding=1)
        last = nn.Conv2d(width, channels, kernel_size=3, padding=1)
        with torch.no_grad():
            nn.init.dirac_(first.weight[:channels])
            nn.init.zeros_(first.bias[:channels])  # type: ignore[index]
            nn.init.dirac_(last.weight)
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.layers = nn.Sequential(first, nn.ReLU(), last)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to cleaned images of that shape, close to that range."""
        cleaned: Tensor = self.layers(images)
        return cleaned
