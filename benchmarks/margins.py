"""How far the right answer is ahead of the next: how hard an image is to break."""

import torch
from torch import Tensor, nn

from fend.attacks import Objective


def margins(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The right logit less the best other one, (N,), for images (N,C,H,W): 0 or less is broken."""
    with torch.inference_mode():
        return -Objective(loss="margin").values(model(images), labels)
