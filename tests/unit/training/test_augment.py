import torch

from training.augment import SHIFT_PX, augmented


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
