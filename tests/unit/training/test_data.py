"""Which images a recipe learns from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fend.images import InputSpec
from training.data import load_splits
from training.recipe.schema import DataSection, RecipeError

GREY = InputSpec(channels=1, height_px=28, width_px=28)
COLOUR = InputSpec(channels=3, height_px=32, width_px=33)


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> str:
    """500 images as a data set."""
    path = tmp_path_factory.mktemp("data") / "noise.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (500, 28, 28), dtype=np.uint8)
    np.savez(path, images=pixels, labels=np.arange(500) % 10)
    return f"npz:{path}"


def test_parts_are_disjoint_and_the_seed_decides(noise) -> None:
    section = DataSection(train=noise, test=noise, held_out=100, limit=300)
    first, again, other = (load_splits(section, GREY, seed, None) for seed in (0, 0, 1))
    assert (len(first.train), len(first.held_out), len(first.test)) == (300, 100, 500)
    assert first.train.digest == again.train.digest
    assert first.train.digest != other.train.digest
    shown = {image.numpy().tobytes() for image in first.train.images}
    assert not any(image.numpy().tobytes() in shown for image in first.held_out.images)


def test_more_images_than_there_are_is_an_error(noise) -> None:
    section = DataSection(train=noise, test=noise, held_out=300, limit=300)
    with pytest.raises(RecipeError, match="need 600 images of 500"):
        load_splits(section, GREY, 0, None)


def test_images_of_another_shape_are_refused_or_fitted_on_request(noise) -> None:
    section = DataSection(train=noise, test=noise, held_out=10)
    with pytest.raises(RecipeError, match="images of 1x28x28, and the recipe's input is 3x32x33"):
        load_splits(section, COLOUR, 0, None)
    fit = section.model_copy(update={"fit": True})
    fitted = load_splits(fit, COLOUR, 0, None).test.images
    with np.load(Path(noise.removeprefix("npz:"))) as file:
        images = torch.from_numpy(file["images"])
    assert fitted.shape == (500, 3, 32, 33)
    assert torch.equal(fitted[:, 1, 2:30, 2:30], images)
    assert int(fitted.sum()) == 3 * int(images.sum())
    small = InputSpec(channels=1, height_px=20, width_px=28)
    with pytest.raises(RecipeError, match="input is 1x20x28"):
        load_splits(fit, small, 0, None)


def test_whole_groups_are_held_out(tmp_path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 28, 28), dtype=np.uint8)
    labels, groups = np.arange(300) % 10, np.arange(300) // 15 * 1_000_000_007
    pixels[:, 0, 0] = np.arange(300) // 15
    np.savez(tmp_path / "filmed.npz", images=pixels, labels=labels, groups=groups)
    filmed = f"npz:{tmp_path / 'filmed.npz'}"
    section = DataSection(train=filmed, test=filmed, held_out=50, split_groups=True)
    splits = load_splits(section, GREY, 0, None)
    train, held_out = (
        set(part.images[:, 0, 0, 0].tolist()) for part in (splits.train, splits.held_out)
    )
    assert train.isdisjoint(held_out)
    assert len(splits.held_out) == 60
    assert len(splits.train) == 240
    assert len(set(splits.held_out.labels[:10].tolist())) > 3  # not in the file's order


def test_groups_that_the_data_do_not_tell_cannot_be_held_out(noise) -> None:
    section = DataSection(train=noise, test=noise, held_out=50, split_groups=True)
    with pytest.raises(RecipeError, match="has no groups"):
        load_splits(section, GREY, 0, None)
