"""Which pictures are inverted."""

import numpy as np
import pytest
import torch
from image_files import DIGITS28, GREY28, saved, seven
from PIL import Image, ImageDraw

from fend.images import decode


@pytest.mark.parametrize("file_format", ["PNG", "BMP"])
def test_a_negative_gives_exactly_the_pixels_of_its_positive(file_format):
    digit = np.array(seven(ink=255, paper=0))
    digit[10:14, 9:20] //= np.arange(1, 12, dtype=np.uint8)  # some greys

    positive = decode(saved(Image.fromarray(digit), file_format), DIGITS28)
    negative = decode(saved(Image.fromarray(255 - digit), file_format), DIGITS28)

    assert not positive.inverted
    assert negative.inverted
    assert torch.equal(negative.pixels, positive.pixels)


def test_as_is_never_inverts():
    decoded = decode(saved(seven(ink=0, paper=255)), GREY28)

    assert not decoded.inverted
    assert decoded.pixels.mean() > 0.5


@pytest.mark.parametrize("level", [0, 128, 255])
def test_a_picture_without_contrast_is_left_alone(level):
    noise = np.random.default_rng(0).integers(-3, 4, (64, 64))
    image = Image.fromarray(np.clip(level + noise, 0, 255).astype(np.uint8))

    assert not decode(saved(image), DIGITS28).inverted
    assert not decode(saved(Image.new("L", (28, 28), level)), DIGITS28).inverted


@pytest.mark.parametrize("epsilon", [0.1, 0.3])
def test_adversarial_noise_does_not_turn_the_polarity(epsilon):
    digit = np.array(seven(ink=255, paper=0)) / 255
    signs = np.random.default_rng(1).choice([-1, 1], digit.shape)
    for perturbation in (signs, np.where(digit > 0.5, -1, 1)):
        noisy = np.clip(digit + epsilon * perturbation, 0, 1)
        for picture, dark_on_light in ((noisy, False), (1 - noisy, True)):
            data = saved(Image.fromarray((picture * 255).round().astype(np.uint8)))
            assert decode(data, DIGITS28).inverted == dark_on_light


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_scan_of_pen_on_grey_paper(file_format):
    light = np.linspace(190, 225, 400)[None, :]  # uneven light
    ink = np.array(seven(ink=255, paper=0, size=(400, 300))) / 255
    grain = np.random.default_rng(2).normal(0, 4, ink.shape)
    scan = np.clip(light * (1 - 0.85 * ink) + grain, 0, 255).astype(np.uint8)

    decoded = decode(saved(Image.fromarray(scan).convert("RGB"), file_format), DIGITS28)

    assert decoded.inverted
    strokes = decode(saved(Image.fromarray((ink * 255).astype(np.uint8))), DIGITS28).pixels
    content = slice(4, 24)
    correlation = torch.corrcoef(
        torch.stack([decoded.pixels[0, content].flatten(), strokes[0, content].flatten()])
    )
    assert correlation[0, 1] > 0.95


def test_colour_pictures_are_inverted_by_their_luma():
    image = Image.new("RGB", (28, 28), (255, 255, 0))
    image.paste((0, 0, 255), (10, 5, 18, 23))

    decoded = decode(saved(image), DIGITS28.model_copy(update={"channels": 3}))

    assert decoded.inverted
    assert decoded.pixels[:, 0, 0].tolist() == [0, 0, 1]


@pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
@pytest.mark.parametrize("ink", [0, 60, 255])
@pytest.mark.parametrize("size", [(28, 28), (400, 300)])
def test_strokes_on_transparent_ground_stay_visible(file_format, ink, size):
    strokes = seven(ink=255, paper=0, size=size)
    image = Image.new("RGBA", size, (ink, ink, ink, 255))
    image.putalpha(strokes)
    options = {"lossless": True, "exact": True} if file_format == "WEBP" else {}

    decoded = decode(saved(image, file_format, **options), DIGITS28)

    expected = decode(saved(strokes), DIGITS28).pixels
    contrast = max(ink, 255 - ink) / 255
    assert decoded.inverted == (ink < 128)
    assert torch.allclose(decoded.pixels, expected * contrast, atol=0.03)


def test_transparent_corners_of_a_paper_do_not_decide():
    image = seven(ink=0, paper=240, size=(280, 280)).convert("RGBA")
    corners = Image.new("L", (280, 280), 0)
    ImageDraw.Draw(corners).rounded_rectangle((0, 0, 279, 279), radius=40, fill=255)
    image.putalpha(corners)

    decoded = decode(saved(image), DIGITS28)

    assert decoded.inverted
    assert decoded.pixels[0, 0, 0] == 0
    assert decoded.pixels.max() > 0.9
