"""Random changes of training images."""

import pytest
import torch

from training.augment import augmented
from training.recipe.schema import AugmentSection

IMAGES = torch.rand(16, 3, 32, 24, generator=torch.Generator().manual_seed(0))
ALL = AugmentSection(
    shift_px=3, mirror=True, rotate_degrees=15, scale=1.3, perspective=0.2, brightness=2,
    contrast=1.5, tint=1.2, blur=1,
)  # fmt: skip


def _drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_a_change_images_are_as_they_were() -> None:
    torch.testing.assert_close(augmented(IMAGES, AugmentSection(), _drawn()), IMAGES)


def test_every_image_changes_by_chance_within_the_range_of_pixels() -> None:
    made = augmented(IMAGES, ALL, _drawn())
    assert made.shape == IMAGES.shape
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    assert float((made - IMAGES).abs().mean((1, 2, 3)).min()) > 0.01
    assert torch.equal(made, augmented(IMAGES, ALL, _drawn()))
    assert not torch.equal(made, augmented(IMAGES, ALL, _drawn(1)))


def test_some_are_mirrored_and_no_more() -> None:
    made = augmented(IMAGES, AugmentSection(mirror=True), _drawn())
    mirrored = [
        torch.allclose(one, image.flip(2), atol=1e-5)
        for one, image in zip(made, IMAGES, strict=True)
    ]
    kept = [torch.allclose(one, image, atol=1e-5) for one, image in zip(made, IMAGES, strict=True)]
    assert 3 < sum(mirrored) < 13
    assert sum(mirrored) + sum(kept) == len(IMAGES)


@pytest.mark.parametrize(
    ("changes", "most_px"),
    [({"shift_px": 3}, 3), ({"rotate_degrees": 20}, 3.6), ({"scale": 1.25}, 2.1)],
)
def test_a_place_moves_by_no_more_than_it_may(changes, most_px) -> None:
    """A dot, 8 to 10 pixels from the middle of the image, is found again near where it was."""
    dot = torch.zeros(64, 1, 40, 40)
    dot[:, :, 12, 20] = 1
    made = augmented(dot, AugmentSection(**changes), _drawn())[:, 0]
    weights = made / made.sum((1, 2), keepdim=True)
    places = torch.arange(40.0)
    row, column = (weights.sum(2) * places).sum(1), (weights.sum(1) * places).sum(1)
    moved_px = torch.maximum((row - 12).abs(), (column - 20).abs())
    assert float(moved_px.max()) <= most_px
    assert float(moved_px.max()) > most_px / 3


def test_light_changes_every_colour_alike_and_a_tint_does_not() -> None:
    flat = torch.full((8, 3, 4, 4), 0.4)
    lit = augmented(flat, AugmentSection(brightness=2), _drawn())
    assert float(lit.amax((1, 2, 3)).sub(lit.amin((1, 2, 3))).max()) < 1e-5
    assert float(lit.min()) >= 0.2 - 1e-5
    assert float(lit.max()) <= 0.8 + 1e-5
    tinted = augmented(flat, AugmentSection(tint=1.2), _drawn())
    assert float(tinted.amax((1, 2, 3)).sub(tinted.amin((1, 2, 3))).min()) > 1e-3
