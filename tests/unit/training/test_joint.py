"""Denoiser and classifier that learn together."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from fend.bundle import load_bundle
from fend.datasets import load
from fend.models import build
from training.data import load_splits
from training.denoiser import feature_loss
from training.joint import joint_fit
from training.line import run_recipe
from training.loop import Moment
from training.recipe import RecipeError
from training.recipe_files import load_recipe
from training.smoke import smoke


@pytest.fixture(scope="module")
def recipe():
    return smoke(load_recipe("mnist"))


@pytest.fixture
def job(recipe):
    splits = load_splits(recipe.data, recipe.input, 0, None)
    torch.manual_seed(0)
    classifier = build("paper-lenet", {}).requires_grad_(False)
    loss = feature_loss(recipe.loss, classifier, None)
    return joint_fit(recipe, classifier, loss, splits, torch.device("cpu"))


def _moment(progress: float = 1.0) -> Moment:
    return Moment(progress, torch.Generator().manual_seed(0))


def test_both_networks_get_a_gradient(job) -> None:
    job.module.train()
    torch.stack(list(job.loss(torch.arange(8), _moment()).values())).sum().backward()
    for network in (job.module.denoiser, job.module.classifier):
        assert any(float(p.grad.abs().sum()) > 0 for p in network.parameters())


def test_the_loss_holds_the_denoiser_to_the_clean_image(job) -> None:
    """A denoiser that is the identity changes no clean image, and leaves what was added."""
    terms = {name: term.item() for name, term in job.loss(torch.arange(8), _moment()).items()}
    assert terms["clean_pixel"] == 0  # the U-Net starts as the identity
    assert terms["pixel"] > 0
    assert {"cross_entropy", "divergence"} < set(terms)


def test_the_run_exports_both_networks_as_they_became(recipe, tmp_path) -> None:
    run_recipe(
        recipe,
        data_dir=None,
        bundle_dir=tmp_path / "bundle",
        runs_dir=tmp_path / "runs",
        resume=False,
        device=torch.device("cpu"),
        console=Console(quiet=True),
    )
    [start] = (tmp_path / "runs/classifiers").iterdir()
    before = torch.load(start / "checkpoint.pt", weights_only=True)["best_weights"]
    bundle = load_bundle(tmp_path / "bundle")
    after = bundle.defence.classifier.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    digits = load("rendered-digits:test", None)
    answers = bundle.defence(digits.pixels(slice(None))).argmax(1)
    assert float((answers == digits.labels).float().mean()) > 0.8
    card = (Path(tmp_path) / "bundle" / "README.md").read_text()
    assert "trained together with the denoiser: trades" in card


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ('joint.adversarial.kind="madry"', "clean images are shown too"),
        ("loss.task_weight=1.0", "guides nothing"),
        ('loss={network="classifier", taps="logits"}', "guides nothing"),
        ('adversaries={threat={epsilon=0.1}, attacks=[{name="fgsm"}]}', "makes all it is shown"),
        ("denoiser.epochs=0", "nothing would use these sections: joint"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, told) -> None:
    changes = [change]
    if "madry" in change:
        changes = ['joint.adversarial={kind="madry", threat={epsilon=0.1}, steps=1}']
    with pytest.raises(RecipeError, match=told):
        load_recipe("mnist", changes=changes)
