"""The classifier that recipes share."""

import io
import threading
import time

import torch
from filelock import FileLock
from rich.console import Console

from training.classifier import obtain_classifier
from training.data import load_splits
from training.recipe_files import load_recipe
from training.smoke import smoke


def test_who_waits_for_another_process_to_train_it_is_told(tmp_path) -> None:
    recipe = smoke(load_recipe("mnist-unsecured"))
    splits = load_splits(recipe.data, recipe.input, 0, None)

    def obtain(told: io.StringIO):
        console = Console(file=told, width=120)
        return obtain_classifier(
            recipe, splits, tmp_path, device=torch.device("cpu"), console=console
        )

    first, alone = obtain(io.StringIO()), io.StringIO()
    obtain(alone)
    assert "waiting" not in alone.getvalue()

    [shared] = tmp_path.iterdir()
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
