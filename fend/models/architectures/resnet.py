"""ResNet-18 (He et al. 2016) for small images, such as CIFAR-10's 32x32."""

from collections.abc import Sequence

from torch import Tensor, nn

from fend.models.architectures.feature_denoise import FeatureDenoise

_BLOCKS_PER_GROUP = 2
_GROUPS = 4


class ResNet18(nn.Module):
    """Four groups of two residual blocks, of `width`, 2x, 4x and 8x channels; any image size.

    A 3x3 convolution comes first, where the version for photographs has a strided 7x7 one and a
    pool. `width` is 64 in print (11.2 million parameters); 16 trains on a CPU. A block of Xie et
    al. 2019 follows each group that `denoise_after` names, from 1 to 4.

    Batch statistics belong to training: in eval mode an answer does not depend on its batch.

    Raises:
        ValueError: `denoise_after` names a group that is not there.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 3,
        width: int = 64,
        denoise_after: Sequence[int] = (),
    ) -> None:
        super().__init__()
        if not set(denoise_after) <= set(range(1, _GROUPS + 1)):
            raise ValueError(f"denoise_after holds groups of 1 to {_GROUPS}, not {denoise_after}")
        self.first = nn.Sequential(
            nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        groups: list[nn.Module] = []
        inputs = width
        for group in range(_GROUPS):
            outputs = width * 2**group
            groups.append(_Residual(inputs, outputs, stride=1 if group == 0 else 2))
            groups += [_Residual(outputs, outputs) for _ in range(_BLOCKS_PER_GROUP - 1)]
            if group + 1 in denoise_after:
                groups.append(FeatureDenoise(outputs))
            inputs = outputs
        self.groups = nn.Sequential(*groups)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to logits (N, classes)."""
        centred = 4.0 * images - 2.0  # about zero mean and unit spread for photographs
        logits: Tensor = self.head(self.groups(self.first(centred)))
        return logits


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False),
                nn.BatchNorm2d(outputs),
            )
        self.activation = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """Feature maps (N,C,H,W) to feature maps, smaller by the stride."""
        result: Tensor = self.activation(self.body(features) + self.shortcut(features))
        return result
