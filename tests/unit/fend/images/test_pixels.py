import io

import numpy as np
import pytest
import torch
from image_files import GREY28, gradient, saved, spec_of
from PIL import Image
from torchvision import transforms

from fend.images import InputSpec, decode, encode_png
from fend.images.formats.jpeg import read_jpeg
from fend.images.pixels import load_upright


def test_grey_is_bt601_luma():
    for colour, luma in [((255, 0, 0), 76), ((0, 255, 0), 150), ((0, 0, 255), 29)]:
        pixels = decode(saved(Image.new("RGB", (28, 28), colour)), GREY28).pixels
        assert pixels.unique().tolist() == [np.float32(luma) / np.float32(255)]


def test_fit_keeps_the_shape_and_pads_with_the_background():
    data = saved(Image.new("L", (40, 20), 128))

    black = decode(data, GREY28).pixels[0]
    white = decode(data, spec_of((28, 28), background="white")).pixels[0]

    assert torch.equal(black[7:21], torch.full((14, 28), 128 / 255))
    assert set(black[:7].unique().tolist() + black[21:].unique().tolist()) == {0}
    assert set(white[:7].unique().tolist() + white[21:].unique().tolist()) == {1}


def test_stretch_fills_the_frame():
    data = saved(Image.new("L", (40, 20), 128))

    pixels = decode(data, spec_of((28, 28), resize="stretch")).pixels

    assert torch.equal(pixels, torch.full((1, 28, 28), 128 / 255))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP"])
@pytest.mark.parametrize("side", [56, 280, 1792])
def test_fine_patterns_are_averaged_not_sampled(file_format, side):
    board = (np.indices((side, side)).sum(axis=0) % 2 * 255).astype(np.uint8)

    pixels = decode(saved(Image.fromarray(board), file_format), GREY28).pixels[0, 1:-1, 1:-1]

    assert pixels.mean().item() == pytest.approx(0.5, abs=0.02)
    assert pixels.std() < 0.05


@pytest.mark.parametrize("resize", ["fit", "stretch", "crop"])
def test_a_large_jpeg_is_decoded_at_a_reduced_scale_to_nearly_the_same_pixels(resize):
    rng = np.random.default_rng(0)
    picture = np.asarray(gradient("RGB", (1300, 1000))) + rng.normal(0, 8, (1000, 1300, 3))
    jpeg = saved(Image.fromarray(picture.clip(0, 255).astype(np.uint8)), "JPEG")
    spec = InputSpec(channels=3, height_px=56, width_px=56, resize=resize)

    upright = load_upright(read_jpeg(jpeg, 2_000_000), spec)
    whole = decode(saved(Image.open(io.BytesIO(jpeg))), spec)

    assert upright.size == (325, 250)  # a quarter, and still four times what is wanted
    assert (decode(jpeg, spec).pixels - whole.pixels).abs().max() <= 3 / 255


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (
            {"resize": "crop", "crop_from_px": 32, "interpolation": "bicubic"},
            [transforms.Resize(32, transforms.InterpolationMode.BICUBIC)],
        ),
        ({"resize": "crop", "crop_from_px": 28}, [transforms.Resize(28)]),
        ({"resize": "crop", "interpolation": "nearest"}, [transforms.Resize(28, 0)]),
        ({"resize": "stretch", "crop_from_px": 32}, [transforms.Resize((32, 32))]),
    ],
)
@pytest.mark.parametrize("size", [(61, 40), (40, 83), (50, 50), (20, 29)], ids=str)
def test_a_photograph_is_scaled_and_cropped_as_torchvision_does(written, expected, size):
    image = gradient("RGB", size)
    spec = InputSpec(channels=3, height_px=28, width_px=28, **written)
    whole = transforms.Compose([*expected, transforms.CenterCrop(28), transforms.ToTensor()])
    assert (decode(saved(image), spec).pixels - whole(image)).abs().max() < 1.5 / 255


def test_a_crop_of_one_row_costs_no_more_than_another_and_16_bit_does_not_overshoot():
    spec = InputSpec(channels=1, height_px=28, width_px=28, resize="crop", interpolation="lanczos")
    row = Image.fromarray(np.arange(60_000, dtype=np.uint16).reshape(1, -1))
    steps = Image.fromarray((np.indices((50, 60)).sum(0) // 9 % 2 * 65535).astype(np.uint16))
    for image in (row, steps):
        pixels = decode(saved(image), spec).pixels
        assert pixels.shape == (1, 28, 28)
        assert 0 <= pixels.min() <= pixels.max() <= 1


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("size", [(28, 28), (280, 280)])
def test_half_transparent_is_half_background(mode, size):
    image = Image.new("L", size, 255).convert(mode)
    image.putalpha(128)

    black = decode(saved(image), GREY28).pixels
    white = decode(saved(image), spec_of((28, 28), background="white")).pixels

    assert torch.allclose(black, torch.full_like(black, 128 / 255), atol=0.005)
    assert torch.equal(white, torch.ones_like(white))


def test_colour_under_full_transparency_does_not_bleed_when_scaling():
    image = Image.new("RGBA", (280, 280), (255, 255, 255, 0))  # white, but invisible
    image.paste((0, 0, 0, 255), (105, 0, 175, 280))

    assert decode(saved(image), GREY28).pixels.max() == 0


def test_a_fully_transparent_picture_is_background():
    image = Image.new("RGBA", (50, 50), (90, 200, 10, 0))

    assert decode(saved(image), GREY28).pixels.max() == 0
    assert decode(saved(image), spec_of((28, 28), background="white")).pixels.min() == 1


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
