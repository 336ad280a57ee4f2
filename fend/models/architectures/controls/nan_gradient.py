"""A control: the right answers, and a gradient that is NaN."""

import torch
from torch import Tensor, nn


class NanGradient(nn.Module):
    """`inner` as it is, with the square root of zero added: nothing forward, NaN backward.

    Attacks that step along NaN go nowhere, or are thrown away as broken: either way an auditor
    that does not look would report the clean accuracy as robust.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to the logits (N, classes) of `inner`."""
        logits: Tensor = self.inner(images)
        return logits + torch.sqrt(0.0 * images.flatten(1).sum(1, keepdim=True))
