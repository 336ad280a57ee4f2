"""A control: logits so large that the cross-entropy of a right answer rounds to nothing."""

from torch import Tensor, nn


class ScaledLogits(nn.Module):
    """The logits of `inner` times `scale`: the same answers, all of them with certainty.

    In float32 the softmax is one-hot, and the gradient of the cross-entropy is zero (a cold
    temperature, as in defensive distillation). Losses that do not depend on the scale, such as
    DLR, see through it.
    """

    def __init__(self, inner: nn.Module, scale: float = 1e4) -> None:
        super().__init__()
        self.inner = inner
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to logits (N, classes)."""
        logits: Tensor = self.inner(images)
        return logits * self.scale
