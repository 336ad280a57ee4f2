import numpy as np
import torch

from benchmarks.draw_digits import draw
from fend.datasets import load

DIGEST = "sha256:198ff797c6af0f6e40f324fc724f47070a1e8c21f3e5a894eb73dfa33802f662"


def test_two_hundred_come_with_fend_and_never_change() -> None:
    images = load("handwritten-digits", None)
    assert images.digest == load("handwritten-digits:test", None).digest == DIGEST
    assert images.images.shape == (200, 1, 28, 28)
    assert images.labels.tolist() == [*range(10)] * 20
    assert len({image.numpy().tobytes() for image in images.images}) == 200


def test_the_sheet_is_what_the_program_draws() -> None:
    images = load("handwritten-digits", None).images
    for index in range(30, 50):  # two writers; another libm may round a pixel differently
        drawn = draw(digit=index % 10, writer=index // 10).astype(int)
        assert np.abs(drawn - images[index, 0].numpy()).max() <= 2


def test_digits_are_framed_as_those_of_mnist() -> None:
    ink = load("handwritten-digits", None).pixels(slice(None))[:, 0]
    across, down = ink.sum(dim=1) > 0, ink.sum(dim=2) > 0
    longest = torch.maximum(across.sum(dim=1), down.sum(dim=1))
    assert set(longest.tolist()) <= {20, 21}, "the ink fits 20x20, but for where a pixel begins"
    places = torch.arange(28) - 13.5
    for axis in (1, 2):
        centre = (ink.sum(dim=axis) * places).sum(dim=1) / ink.sum(dim=(1, 2))
        assert float(centre.abs().max()) <= 0.5 + 1e-3
    assert float(ink.amax(dim=(1, 2)).min()) > 0.8
