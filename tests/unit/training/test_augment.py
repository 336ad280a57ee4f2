import torch

from fend.datasets import load
from training.augment import SHIFT_PX, augmented, distorted


def test_images_are_shifted_and_half_of_them_mirrored() -> None:
    count = 400
    images = torch.zeros(count, 3, 12, 16)
    images[:, :, 6, 5] = 1.0  # one bright pixel, left of the middle
    made = augmented(images, torch.Generator().manual_seed(0))
    assert made.shape == images.shape
    assert torch.equal(made[:, 0], made[:, 2])
    assert torch.equal(made.sum((2, 3)), torch.ones(count, 3))  # it never leaves this image
    _, rows, columns = made[:, 0].nonzero(as_tuple=True)
    assert set((rows - 6).tolist()) == set(range(-SHIFT_PX, SHIFT_PX + 1))
    # Unmirrored it lies in 1..9, mirrored (15 - 5 = 10) in 6..14.
    assert set(columns.tolist()) == set(range(1, 15))
    assert 0.3 < float((columns >= 10).double().mean()) / (5 / 9) < 0.7


def test_the_generator_decides() -> None:
    images = torch.rand(5, 1, 8, 8)
    first, again, other = (
        augmented(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_distorted_digits_are_near_what_they_were_and_in_range() -> None:
    images = load("rendered-digits:train", None).pixels(slice(0, 200))
    made = distorted(images, torch.Generator().manual_seed(0))
    assert made.shape == images.shape
    assert 0.0 <= float(made.min()) <= float(made.max()) <= 1.0
    moved = (made - images).abs().amax((1, 2, 3)) > 0
    assert 0.15 < float((~moved).double().mean()) < 0.35  # UNTOUCHED
    ink, ink_before = made.sum((1, 2, 3)), images.sum((1, 2, 3))
    assert float((ink / ink_before - 1).abs().max()) < 0.45
    assert abs(float((ink / ink_before).mean()) - 1) < 0.05


def test_distorted_slants_turns_stretches_and_moves_to_both_sides() -> None:
    count, size = 400, 28
    images = torch.zeros(count, 1, size, size)
    images[:, :, 6:22, 13:15] = 1.0  # an upright stroke in the middle
    made = distorted(images, torch.Generator().manual_seed(0))[:, 0]
    across = torch.arange(size) - (size - 1) / 2
    ink = made.sum((1, 2))
    centre_x = (made.sum(1) * across).sum(1) / ink
    centre_y = (made.sum(2) * across).sum(1) / ink
    for centre in (centre_x, centre_y):
        assert float(centre.abs().max()) < 2.5
        assert float(centre.min()) < -1.0 < 1.0 < float(centre.max())
    upper, lower = made[:, :14], made[:, 14:]
    lean = (upper.sum(1) * across).sum(1) / upper.sum((1, 2))
    lean -= (lower.sum(1) * across).sum(1) / lower.sum((1, 2))
    assert float(lean.min()) < -1.5 < 1.5 < float(lean.max())
    height = (made.amax(2) > 0.5).sum(1)
    assert int(height.min()) < 15 < 17 < int(height.max())


def test_distorted_by_the_generator_alone() -> None:
    images = torch.rand(5, 1, 28, 28)
    first, again, other = (
        distorted(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
