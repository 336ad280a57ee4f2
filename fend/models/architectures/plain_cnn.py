"""A plain convolutional classifier, through which bounds stay tight (Gowal et al. 2018)."""

from collections.abc import Sequence

from torch import Tensor, nn

SMALL: Sequence[Sequence[int]] = ((16, 4, 2), (32, 4, 1))
"""Gowal et al.'s small network: channels, kernel size and stride of each convolution."""


class PlainCNN(nn.Module):
    """Convolutions without padding, then fully connected layers, each but the last with a ReLU.

    `convolutions` holds (channels, kernel_px, stride_px) each, `hidden` the sizes of the hidden
    layers. Nothing else: each pooling or normalising layer would make bounds looser.

    Raises:
        ValueError: nothing would be left of images so small.
    """

    def __init__(
        self,
        classes: int = 10,
        channels: int = 1,
        size_px: int = 28,
        convolutions: Sequence[Sequence[int]] = SMALL,
        hidden: Sequence[int] = (100,),
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        side_px = size_px
        for after, kernel_px, stride_px in convolutions:
            layers += [nn.Conv2d(channels, after, kernel_px, stride_px), nn.ReLU()]
            channels, side_px = after, (side_px - kernel_px) // stride_px + 1
        if side_px < 1:
            raise ValueError(f"nothing is left of {size_px} pixels after these convolutions")
        layers.append(nn.Flatten())
        size = channels * side_px**2
        for after in hidden:
            layers += [nn.Linear(size, after), nn.ReLU()]
            size = after
        self.layers = nn.Sequential(*layers, nn.Linear(size, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to logits (N, classes)."""
        logits: Tensor = self.layers(images)
        return logits
