"""The paper's classifier with a feature-denoising block after each convolution."""

from torch import Tensor, nn

from fend.models.architectures.feature_denoise import FeatureDenoise
from fend.models.architectures.lenet import CONVOLVED, HIDDEN, features_side_px


class FeatureDenoiseLeNet(nn.Module):
    """`PaperLeNet` with two blocks of Xie et al. 2019; takes [0, 1], unnormalised.

    `size_px` is the height and width of the images.
    """

    def __init__(self, classes: int = 10, channels: int = 1, size_px: int = 28) -> None:
        super().__init__()
        first, second = CONVOLVED
        self.features = nn.Sequential(
            nn.Conv2d(channels, first, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            FeatureDenoise(first),
            nn.Conv2d(first, second, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            FeatureDenoise(second),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(features_side_px(size_px) ** 2 * second, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to logits (N, classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits
