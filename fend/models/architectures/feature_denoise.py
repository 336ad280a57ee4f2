"""The denoising block for feature maps of Xie et al. 2019, inside a classifier."""

from torch import Tensor, nn
from torch.nn import functional as F


class FeatureDenoise(nn.Module):
    """y + conv1x1(non-local mean of y), with softmax weights (their "Gaussian" version).

    Each place becomes a mean over all places, weighted by softmax(theta(y_i) . phi(y_j) / sqrt(d)),
    where theta and phi are 1x1 convolutions to half the channels. Starts as the identity. The
    authors find it of use only together with adversarial training.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        embedded = max(channels // 2, 1)
        self.theta = nn.Conv2d(channels, embedded, kernel_size=1)
        self.phi = nn.Conv2d(channels, embedded, kernel_size=1, bias=False)  # softmax undoes one
        self.project = nn.Conv2d(channels, channels, kernel_size=1)
        nn.init.zeros_(self.project.weight)
        if self.project.bias is not None:
            nn.init.zeros_(self.project.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Feature maps (N,C,H,W) to feature maps of the same shape."""
        query, key, value = (
            maps.flatten(2).transpose(1, 2)  # (N, places, channels)
            for maps in (self.theta(features), self.phi(features), features)
        )
        means = F.scaled_dot_product_attention(query, key, value)
        denoised: Tensor = self.project(means.transpose(1, 2).reshape_as(features))
        return features + denoised
