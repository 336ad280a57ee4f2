"""The paper's denoising autoencoder (section 4.2, figure 4)."""

from torch import Tensor, nn

_LAST_LAYERS = {28: (2, 1), 32: (4, 0)}
"""Kernel size and padding that make so many pixels a side out of the decoder's 15x15 maps."""


class PaperAutoencoder(nn.Module):
    """28x28x1 -> 10 -> 5 -> 3 -> 2x2x8 code -> 5 -> 15 -> 28x28x1; 5,729 parameters.

    The paper says "inverse tangent"; tanh is what its author's code has and what fits its ranges.
    Pixels are [0, 1] outside and [-1, 1] inside. Colour and 32x32 images are our addition: the
    code is 2x2x8 there too.

    Raises:
        ValueError: `size_px`, the height and width of the images, is neither 28 nor 32.
    """

    def __init__(self, channels: int = 1, size_px: int = 28) -> None:
        super().__init__()
        if size_px not in _LAST_LAYERS:
            raise ValueError(f"size_px is 28 or 32, not {size_px}")
        kernel_px, padding_px = _LAST_LAYERS[size_px]
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, 16, kernel_size=3, stride=3, padding=1),
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
            nn.ConvTranspose2d(8, channels, kernel_px, stride=2, padding=padding_px),
            nn.Tanh(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,C,H,W) in [0, 1] to cleaned images of the same shape and range."""
        cleaned: Tensor = self.decoder(self.encoder(2.0 * images - 1.0))
        return (cleaned + 1.0) / 2.0
