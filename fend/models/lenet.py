"""The paper's classifier (section 4.2): two convolutions, two fully connected layers."""

from torch import Tensor, nn


class PaperLeNet(nn.Module):
    """431,080 parameters for 28x28x1 images and 10 classes. Takes [0, 1], unnormalised."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 20, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, kernel_size=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(4 * 4 * 50, 500),
            nn.ReLU(),
            nn.Linear(500, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images (N,1,28,28) in [0, 1] to logits (N, classes)."""
        logits: Tensor = self.head(self.features(images))
        return logits
