"""The paper's denoising autoencoder (section 4.2, figure 4)."""

from torch import Tensor, nn


class PaperAutoencoder(nn.Module):
    """28x28x1 -> 10 -> 5 -> 3 -> 2x2x8 code -> 5 -> 15 -> 28x28x1; 5,729 parameters.

    The paper says "inverse tangent"; tanh is what its author's code has and what fits its ranges.
    Pixels are [0, 1] outside and [-1, 1] inside. Only 28x28 greyscale images fit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, stride=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2, stride=2),
            nn.Conv2d(16, 8, kernel_size=3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=2, stride=1),
        )
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 16, kernel_size=3, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, kernel_size=5, stride=3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 1, kernel_size=2, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,1,28,28) in [0, 1] to cleaned images of the same shape and range."""
        cleaned: Tensor = self.decoder(self.encoder(2.0 * images - 1.0))
        return (cleaned + 1.0) / 2.0
