"""The classifier that recipes share."""

import io
import threading
import time

import torch
from filelock import FileLock
from rich.console import Console

from training.augment import SHIFT_PX, shifted_and_mirrored
from training.recipe.files import load_recipe
from training.recipe.smaller import smoke
from training.stages.classifier import obtain_classifier


def test_who_waits_for_another_process_to_train_it_is_told(tmp_path, context_of) -> None:
    recipe = smoke(load_recipe("mnist-unsecured"))

    def obtain(told: io.StringIO):
        context = context_of(recipe, tmp_path, Console(file=told, width=120))
        return obtain_classifier(recipe.classifier, context)

    first, alone = obtain(io.StringIO()), io.StringIO()
    obtain(alone)
    assert "waiting" not in alone.getvalue()

    [shared] = (tmp_path / "classifiers").iterdir()
    told, found = io.StringIO(), []
    waiter = threading.Thread(target=lambda: found.append(obtain(told)))
    with FileLock(shared / "lock"):
        waiter.start()
        deadline = time.monotonic() + 60
        while "waiting" not in told.getvalue():
            assert time.monotonic() < deadline, told.getvalue()
            time.sleep(0.01)
        assert not found
    waiter.join(timeout=60)
    assert "another process is training this classifier" in told.getvalue()
    state = found[0].module.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in first.module.state_dict().items())


def test_images_are_shifted_and_half_of_them_mirrored() -> None:
    count = 400
    images = torch.zeros(count, 3, 12, 16)
    images[:, :, 6, 5] = 1.0  # one bright pixel, left of the middle
    made = shifted_and_mirrored(images, torch.Generator().manual_seed(0))
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
        shifted_and_mirrored(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
