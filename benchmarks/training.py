"""An epoch of training with the feature loss, against a bare loop of the same loss network.

    python -m benchmarks.training

The bare loop does what no such training can do without: the loss network forward on the clean
images, forward and backward on the denoised ones, from tensors that lie ready. An epoch of ours has
the denoiser, both losses, the optimiser and the data on top. Then the same with the clean images'
feature maps in the cache. Ours and the bare loop take turns, one thread, and the fastest round of
each counts, since other load only adds time. On a CPU it is the processor's time that is counted.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F

from benchmarks.places import default_data_dir
from fend.models import build
from fend.pipeline import frozen
from training.data import Splits, load_splits
from training.denoiser import denoiser_fit, feature_loss
from training.loop import Fit, fit
from training.recipe import LossSection, Recipe
from training.recipe_files import load_recipe

TAPS = {"squeezenet-imagenet": "fire"}
AIMS = {"without the cache": 1.10, "with the cache": 0.75}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["vgg16-cifar10", "squeezenet-imagenet"])
    parser.add_argument("--data", default="mnist", help="mnist, cifar10-grey or rendered-digits")
    parser.add_argument("--data-dir", type=Path, default=default_data_dir())
    parser.add_argument("--images", type=int, default=2_048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    title = f"{options.images} images of {options.data}, batches of 128, {device}"
    table = Table("loss network", "clean maps", "bare, s", "ours, s", "ratio", "aim", title=title)
    for network in options.networks:
        changes = [
            f"data.limit={options.images}",
            "data.held_out=100",
            f"data.train={options.data}:train",
            f"data.test={options.data}:test",
            f"loss.network={network}",
            f"loss.taps={TAPS.get(network, 'text')}",
        ]
        recipe = load_recipe("mnist-feature-loss", profile="cpu", changes=changes)
        splits = load_splits(recipe.data, recipe.input, recipe.seed, options.data_dir)
        for cache, times in measure(recipe, splits, options.data_dir, options.rounds, device):
            bare_s, ours_s = times
            table.add_row(
                network, cache, f"{bare_s:.2f}", f"{ours_s:.2f}", f"{ours_s / bare_s:.3f}",
                f"{AIMS[cache]:.2f}",
            )  # fmt: skip
    Console().print(table)


def measure(
    recipe: Recipe, splits: Splits, data_dir: Path, rounds: int, device: torch.device
) -> list[tuple[str, tuple[float, float]]]:
    """Seconds of the bare loop and of our epoch, without the cache and with."""
    assert recipe.loss is not None
    bare = _bare_loop(recipe, splits, data_dir, device)
    measured = []
    for cache, limit_bytes in (("without the cache", 0), ("with the cache", 2**33)):
        loss = recipe.loss.model_copy(update={"cache_bytes": limit_bytes})
        job = _one_epoch(recipe.model_copy(update={"loss": loss}), loss, splits, data_dir, device)
        _train(job)  # warms up, and fills the cache
        bare()
        train = partial(_train, job)
        seconds = [(_timed(bare, device), _timed(train, device)) for _ in range(rounds)]
        best = min(bare_s for bare_s, _ in seconds), min(ours_s for _, ours_s in seconds)
        measured.append((cache, best))
    return measured


def _one_epoch(
    recipe: Recipe, loss: LossSection, splits: Splits, data_dir: Path, device: torch.device
) -> Fit:
    """The real training, for one epoch, with nothing to do after it."""
    classifier = _classifier(recipe).to(device)
    clean = splits.train.pixels(slice(None))
    noise = torch.rand(clean.shape, generator=torch.Generator().manual_seed(0))
    shown = {"noisy": (clean + 0.4 * noise - 0.2).clamp(0, 1).half()}
    loss_fn = feature_loss(loss, classifier, data_dir, device)
    job = denoiser_fit(recipe, classifier, loss_fn, splits, shown, {}, device)
    return replace(job, epochs=1, validate=lambda: {"score": 0.0}, pictures=None)


def _train(job: Fit) -> None:
    with tempfile.TemporaryDirectory() as folder:
        fit(job, Path(folder), resume=False, console=Console(quiet=True))


def _bare_loop(
    recipe: Recipe, splits: Splits, data_dir: Path, device: torch.device
) -> Callable[[], None]:
    assert recipe.loss is not None
    network = feature_loss(recipe.loss, _classifier(recipe), data_dir, device).network
    assert network is not None
    clean = splits.train.pixels(slice(None)).to(device).split(recipe.denoiser.batch_size)
    denoised = [batch.flip(3).contiguous().requires_grad_(True) for batch in clean]

    def run() -> None:
        for target_images, images in zip(clean, denoised, strict=True):
            with torch.no_grad():
                targets = network(target_images)
            maps = network(images)
            errors = [F.mse_loss(maps[name], targets[name]) for name in maps]
            images.grad = None
            torch.stack(errors).sum().backward()  # type: ignore[no-untyped-call]

    return run


def _classifier(recipe: Recipe) -> nn.Module:
    return frozen(build(recipe.classifier.architecture, recipe.classifier.config))


def _timed(run: Callable[[], None], device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    started = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started


if __name__ == "__main__":
    main()
