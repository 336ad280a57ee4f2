import pytest
import torch
from image_files import GREY28, RGB28, animated_webp, gradient, saved, spec_of
from PIL import Image

from fend.errors import Invalid
from fend.images import decode


@pytest.mark.parametrize("at", [(0, 0), (4, 12)])
def test_an_animation_of_one_frame_is_a_picture(at):
    plain = decode(saved(gradient("RGB"), "WEBP", lossless=True), RGB28).pixels
    spec = spec_of((28 + at[0], 28 + at[1]), channels=3)

    pixels = decode(animated_webp(1, at), spec).pixels

    assert torch.equal(pixels[:, at[1] :, at[0] :], plain)
    assert pixels[:, : at[1]].sum() == pixels[:, :, : at[0]].sum() == 0  # background


@pytest.mark.parametrize("frames", [2, 3])
def test_animations_are_refused(frames):
    with pytest.raises(Invalid, match="animation") as caught:
        decode(animated_webp(frames), GREY28)
    assert caught.value.code == "image_multi_frame"


def test_no_picture_is_too_small():
    data = saved(Image.new("RGB", (1, 1), "white"), "WEBP", lossless=True)

    assert len(data) < 40
    assert decode(data, spec_of((1, 1))).pixels.item() == 1
    flat = data[:16] + (8).to_bytes(4, "little") + data[20:28]
    assert len(flat) == 28
    with pytest.raises(Invalid):  # cut, but long enough to be looked at
        decode(flat[:4] + (20).to_bytes(4, "little") + flat[8:24], spec_of((1, 1)))
