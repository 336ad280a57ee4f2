"""Classifiers that Fend does not know, for `benchmarks.foreign_classifier`.

There is nothing of Fend in them. They differ in kind, and in how easily they are fooled.
"""

import torch
from torch import Tensor, nn

MEAN, STD = 0.1307, 0.3081  # of MNIST


class _Normalised(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images - torch.tensor([MEAN]).view(1, 1, 1)) / STD


def mlp() -> nn.Module:
    """Two hidden layers, no convolution: 28x28x1 images in [0, 1] to 10 logits."""
    return nn.Sequential(
        _Normalised(),
        nn.Flatten(),
        nn.Linear(784, 512),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Linear(512, 256),
        nn.GELU(),
        nn.Dropout(0.2),
        nn.Linear(256, 10),
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(features + self.body(features))


def residual() -> nn.Module:
    """Two residual blocks between max pools, after He et al. 2016."""
    return nn.Sequential(
        _Normalised(),
        nn.Conv2d(1, 16, 5, padding=2),
        nn.MaxPool2d(2),
        _Residual(16),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.MaxPool2d(2),
        _Residual(32),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(288, 10),
    )


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
    """Depthwise and pointwise convolutions, then a mean, after MobileNet (Howard et al. 2017)."""
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


NETS = {"mlp": mlp, "residual": residual, "depthwise": depthwise}
