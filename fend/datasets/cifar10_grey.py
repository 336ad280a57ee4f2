"""CIFAR-10 as the paper has it (section 4.1): grey, 28x28.

Each picture is made as the service would make it of the colour picture: resized with an antialiased
bilinear filter, then ITU-R BT.601 luma. The paper names no filter and no formula for grey.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fend.datasets import cifar10
from fend.datasets.base import ImageSet
from fend.images import InputSpec
from fend.images.pixels import scale, to_samples

_SPEC = InputSpec(channels=1, height_px=28, width_px=28)


def load(split: str, data_dir: Path, md5s: Mapping[str, str] = cifar10.MD5S) -> ImageSet:
    """Read the split "train" (50,000) or "test" (10,000): uint8 (N, 1, 28, 28).

    Raises:
        MissingDatasetError, Invalid: as `cifar10.load`.
    """
    colour = cifar10.load(split, data_dir, md5s)
    grey = np.empty((len(colour), 1, _SPEC.height_px, _SPEC.width_px), dtype=np.uint8)
    for index, picture in enumerate(colour.images.numpy().transpose(0, 2, 3, 1)):
        samples, _, _ = to_samples(scale(Image.fromarray(picture), _SPEC), _SPEC.channels)
        grey[index, 0] = samples[..., 0]
    return ImageSet(
        name=f"cifar10-grey:{split}",
        images=torch.from_numpy(grey),
        labels=colour.labels,
        label_names=colour.label_names,
    )
