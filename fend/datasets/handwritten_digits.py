"""Two hundred handwritten digits that come with Fend, framed as MNIST's: for a first look.

They are of our own drawing (`benchmarks/draw_digits.py` draws the sheet): twenty invented writers,
each with the ten digits. Two hundred images are enough to see an audit work, not for claims.
"""

from importlib.resources import files

import numpy as np
import torch
from PIL import Image

from fend.datasets.base import ImageSet

LABEL_NAMES = tuple("0123456789")
_SIDE_PX = 28


def load() -> ImageSet:
    """All 200 images, uint8 (200, 1, 28, 28), light on dark; labels take turns, 0 to 9."""
    with files("fend.datasets").joinpath("handwritten_digits.png").open("rb") as file:
        sheet = np.array(Image.open(file))  # a row for each digit, a column for each writer
    tiles = sheet.reshape(len(LABEL_NAMES), _SIDE_PX, -1, _SIDE_PX).transpose(2, 0, 1, 3)
    images = np.ascontiguousarray(tiles).reshape(-1, 1, _SIDE_PX, _SIDE_PX)
    return ImageSet(
        name="handwritten-digits:test",
        images=torch.from_numpy(images),
        labels=torch.arange(len(images)) % len(LABEL_NAMES),
        label_names=LABEL_NAMES,
    )
