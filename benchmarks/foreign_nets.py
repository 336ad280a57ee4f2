"""Classifiers that Fend does not know, for `benchmarks.foreign_classifier`.

There is nothing of Fend in them. `depthwise` is after MobileNet (Howard et al. 2017): depthwise and
pointwise convolutions, batch normalisation, SiLU, its own normalisation of the pixels, average
pooling at the end.
"""

import torch
from torch import Tensor, nn

MEAN, STD = 0.1307, 0.3081  # of MNIST


class _Normalised(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images - torch.tensor([MEAN]).view(1, 1, 1)) / STD


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 5, stride=stride, padding=2, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.SiLU(inplace=True),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(inplace=True),
    )


def depthwise() -> nn.Module:
    """28x28x1 images in [0, 1] to 10 logits."""
    return nn.Sequential(
        _Normalised(),
        nn.Conv2d(1, 24, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(24),
        nn.SiLU(inplace=True),
        _separable(24, 48, stride=1),
        _separable(48, 96, stride=2),
        _separable(96, 96, stride=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.1),
        nn.Linear(96, 10),
    )
