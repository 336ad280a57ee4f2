"""A pre-activation residual network (He et al. 2016b) for small colour images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PreActResNet(nn.Module):
    """A group of `blocks` residual blocks for each of `widths`, each at half the resolution of the
    one before; any image size.

    With `fold` = 2 the net works at half resolution on 2x2 pixels at a time (a space-to-depth
    step), which on a CPU costs a quarter for the same widths. Batch statistics belong to training:
    in eval mode an answer does not depend on its batch.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 3,
        widths: Sequence[int] = (32, 64, 128, 256),
        blocks: int = 1,
        fold: int = 2,
    ) -> None:
        super().__init__()
        self.fold = fold
        self.first = nn.Conv2d(channels * fold**2, widths[0], 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        inputs = widths[0]
        for group, width in enumerate(widths):
            for block in range(blocks):
                layers.append(_Block(inputs, width, stride=2 if group and not block else 1))
                inputs = width
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(inputs)
        self.head = nn.Linear(inputs, classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to logits (N, classes)."""
        centred = 4.0 * images - 2.0  # about zero mean and unit spread for photographs
        folded = F.pixel_unshuffle(centred, self.fold).contiguous(memory_format=torch.channels_last)
        maps = F.relu(self.norm(self.blocks(self.first(folded))))
        logits: Tensor = self.head(maps.mean((2, 3)))
        return logits


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Feature maps (N,C,H,W) to feature maps, smaller by the stride."""
        active = F.relu(self.norm1(maps))
        kept = maps if self.shortcut is None else self.shortcut(active)
        changed: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return kept + changed
