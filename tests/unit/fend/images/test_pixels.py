import io

import numpy as np
import pytest
import torch
from PIL import Image

from fend.images import InputSpec, decode, encode_png


@pytest.mark.parametrize("channels", [1, 3])
def test_encode_png_round_trip_is_exact(channels):
    levels = torch.arange(channels * 16 * 16).remainder(256).reshape(channels, 16, 16)
    pixels = levels.float() / 255
    spec = InputSpec.model_validate({"channels": channels, "height_px": 16, "width_px": 16})

    assert torch.equal(decode(encode_png(pixels), spec).pixels, pixels)


def test_encode_png_rounds_to_the_nearest_level():
    """torchattacks #124: cut down to a level instead, a stored adversarial is another image."""
    pixels = torch.tensor([[[0.0, 0.9 / 255, 1.4 / 255, 253.6 / 255, 0.9999, 1.0]]])

    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert np.asarray(image).tolist() == [[0, 1, 1, 254, 255, 255]]


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(28, 28),
        torch.zeros(2, 28, 28),
        torch.zeros(1, 0, 28),
        torch.full((1, 2, 2), 1.1),
        torch.full((1, 2, 2), -0.1),
        torch.full((1, 2, 2), float("nan")),
    ],
)
def test_encode_png_refuses_what_is_no_picture(pixels):
    with pytest.raises(ValueError, match="expected pixels"):
        encode_png(pixels)
