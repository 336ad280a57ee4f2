"""Known-bad controls: models that look robust and are not, for trying the auditor on.

Never serve them as defences. Each is a wrapper around an ordinary network, or a stand-in for a
denoiser. The fifth control, a 1-bit quantiser, is the ordinary `bit-depth` denoiser.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class GradientKiller(nn.Module):
    """`inner` as it is, with the gradient taken out.

    With `cut` there is no graph at all between the images and the logits, as after a stray
    `detach()` or a round trip through numpy; else there is one, and zeros flow through it.
    """

    def __init__(self, inner: nn.Module, cut: bool = False) -> None:
        super().__init__()
        self.inner = inner
        self.cut = cut

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to the logits (N, classes) of `inner`."""
        logits: Tensor = self.inner(images.detach())
        if self.cut:
            return logits
        return logits + 0.0 * images.flatten(1).sum(1, keepdim=True)


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
