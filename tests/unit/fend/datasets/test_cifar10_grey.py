"""Grey CIFAR-10 is what the service makes of the colour pictures."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fend.datasets import ImageSet, MissingDatasetError, cifar10, load
from fend.images import InputSpec, decode


def test_each_image_is_what_a_model_is_served_for_the_colour_picture(monkeypatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), dtype=np.uint8)
    pixels[0] = 0
    colour = ImageSet(
        "cifar10:test", torch.from_numpy(pixels), torch.tensor([3, 0, 9]), cifar10.LABEL_NAMES
    )
    monkeypatch.setattr(cifar10, "load", lambda *_: colour)
    grey = load("cifar10-grey:test", Path("anywhere"))
    assert grey.name == "cifar10-grey:test"
    assert grey.images.shape == (3, 1, 28, 28)
    assert grey.labels.tolist() == [3, 0, 9]
    assert grey.label_names == cifar10.LABEL_NAMES
    spec = InputSpec(channels=1, height_px=28, width_px=28)
    for index in range(3):
        file = io.BytesIO()
        Image.fromarray(pixels[index].transpose(1, 2, 0)).save(file, "PNG")
        served = decode(file.getvalue(), spec).pixels
        assert torch.equal(torch.as_tensor(served), grey.pixels(slice(index, index + 1))[0])


def test_what_is_missing_is_fetched_as_cifar10(tmp_path) -> None:
    with pytest.raises(MissingDatasetError, match="fend data fetch cifar10 "):
        load("cifar10-grey:train", tmp_path)
    with pytest.raises(MissingDatasetError, match="fend data fetch cifar10 fills"):
        load("cifar10-grey:train", None)
