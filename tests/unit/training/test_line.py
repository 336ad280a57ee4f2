"""The whole offline line on rendered digits, as a user starts it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from fend.bundle import load_bundle
from fend.datasets import load
from training.adversaries import make_adversaries
from training.loop import Fit, NothingToCut, fit
from training.recipe import Optimiser, load_recipe

FEND = Path(sys.executable).parent / "fend"


def _train(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [str(FEND), "train", "mnist", "--smoke", "--threads", "1"]
    places = ["--models-dir", str(folder / "models"), "--runs-dir", str(folder / "runs")]
    return subprocess.Popen(
        [*command, *places, *options],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "FEND_DATA_DIR": str(folder)},
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    process = _train(folder)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return folder


def test_smoke_trains_exports_and_the_bundle_knows_digits(undisturbed) -> None:
    bundle = load_bundle(undisturbed / "models" / "mnist-smoke")
    digits = load("rendered-digits:test", None)
    answers = bundle.defence(digits.pixels(slice(None))).argmax(1)
    assert float((answers == digits.labels).float().mean()) > 0.8
    assert bundle.manifest.content.suspicion.threshold > 0
    card = (undisturbed / "models" / "mnist-smoke" / "README.md").read_text()
    assert card.splitlines()[2] == load_recipe("mnist").summary
    assert list((undisturbed / "runs").rglob("events.out.tfevents*"))


def test_a_killed_run_resumes_to_the_same_weights(undisturbed, tmp_path) -> None:
    process = _train(tmp_path)
    deadline = time.monotonic() + 200
    while not list(tmp_path.glob("runs/adversaries/*/chunk-00001.safetensors")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = _train(tmp_path, "--resume")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    for file in ("classifier.safetensors", "denoiser.safetensors"):
        ours = load_file(tmp_path / "models" / "mnist-smoke" / file)
        theirs = load_file(undisturbed / "models" / "mnist-smoke" / file)
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), file


def _job(module: nn.Module, epochs: int) -> Fit:
    inputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))

    def loss(indices, moment):
        noise = 0.1 * torch.randn(len(indices), 3, generator=moment.generator)
        return {"square": (module(inputs[indices] + noise) - 1).square().mean()}

    def validate():
        return {"score": -float((module(inputs) - 1).square().mean().detach())}

    return Fit(module, Optimiser(learning_rate=0.01), epochs, 8, 40, 0, loss, validate)


def test_a_resumed_fit_equals_an_undisturbed_one(tmp_path) -> None:
    quiet = Console(quiet=True)
    torch.manual_seed(0)
    whole = nn.Linear(3, 1)
    start = {key: value.clone() for key, value in whole.state_dict().items()}
    fit(_job(whole, 6), tmp_path / "whole", resume=False, console=quiet)
    halves = nn.Linear(3, 1)
    halves.load_state_dict(start)
    fit(_job(halves, 3), tmp_path / "halves", resume=False, console=quiet)
    fresh = nn.Linear(3, 1)
    outcome = fit(_job(fresh, 6), tmp_path / "halves", resume=True, console=quiet)
    assert torch.equal(fresh.weight, whole.weight)
    assert outcome.figures["score"] == _job(whole, 6).validate()["score"]
    assert outcome.epochs == 6


def test_a_training_can_be_cut_short_after_its_first_epoch(tmp_path) -> None:
    quiet = Console(quiet=True)
    with pytest.raises(NothingToCut, match="no finished epoch"):
        fit(_job(nn.Linear(3, 1), 6), tmp_path, resume=False, cut=True, console=quiet)
    trained = nn.Linear(3, 1)
    fit(_job(trained, 2), tmp_path, resume=False, console=quiet)
    cut = nn.Linear(3, 1)
    outcome = fit(_job(cut, 6), tmp_path, resume=False, cut=True, console=quiet)
    assert outcome.epochs == 2
    assert torch.equal(cut.weight, trained.weight)


def test_adversaries_are_made_once(tmp_path, undisturbed) -> None:
    bundle = load_bundle(undisturbed / "models" / "mnist-smoke")
    recipe = load_recipe("mnist").smoke()
    images = load("rendered-digits:test", None).subset(slice(0, 600))
    options = {
        "threat": recipe.adversaries.threat,
        "seed": 0,
        "cache": tmp_path,
        "console": Console(quiet=True),
    }
    fgsm = recipe.adversaries.attacks[0]
    first = make_adversaries(fgsm, bundle.defence.classifier, images, **options)
    assert first.shape == images.images.shape
    assert float((first.float() - images.pixels(slice(None))).abs().max()) <= 0.2 + 1e-3

    def must_not_run(*_: object) -> None:
        raise AssertionError("the classifier was asked again")

    bundle.defence.classifier.forward = must_not_run  # type: ignore[method-assign]
    assert torch.equal(make_adversaries(fgsm, bundle.defence.classifier, images, **options), first)
