"""Training by interval bounds, and what is said of it."""

import pytest
import torch

from fend.bundles import load_bundle
from fend.datasets import load
from fend.guarantees.intervals import Bounds, verified
from fend.models import build
from fend.threat import ThreatModel
from training.evaluate import accuracy
from training.loop import StepContext
from training.recipe.files import load_recipe
from training.recipe.smaller import smoke
from training.stages.ibp import ibp_fit, verified_accuracy


@pytest.fixture(scope="module")
def recipe():
    return smoke(load_recipe("mnist-ibp", profile="cpu"))


@pytest.fixture(scope="module")
def context(recipe, context_of):
    return context_of(recipe)


@pytest.fixture
def job(recipe, context):
    torch.manual_seed(0)
    section = recipe.classifier
    classifier = build(section.architecture, section.config)
    return ibp_fit(recipe.ibp, classifier, context)


def _loss(job, progress: float) -> dict[str, torch.Tensor]:
    step = StepContext(progress, torch.Generator().manual_seed(0))
    return job.loss(torch.arange(16), step)


def test_it_starts_with_clean_images_and_ends_with_the_worst_case(job) -> None:
    start, end = _loss(job, 0.0), _loss(job, 1.0)
    assert start["worst_cross_entropy"].item() == 0
    assert start["worst_pixel"].item() == pytest.approx(0, abs=1e-9)  # an identity and no box
    assert end["cross_entropy"].item() == pytest.approx(start["cross_entropy"].item() / 2)
    assert end["worst_cross_entropy"].item() > end["cross_entropy"].item()
    assert end["worst_pixel"].item() > 0


def test_both_networks_get_a_gradient_from_the_worst_case(job) -> None:
    job.module.train()
    _loss(job, 1.0)["worst_cross_entropy"].backward()
    for network in (job.module.denoiser, job.module.classifier):
        assert any(float(p.grad.abs().sum()) > 0 for p in network.parameters())


def test_the_worst_case_is_no_better_than_any_point_of_the_box(job, context) -> None:
    splits = context.splits
    clean, labels = splits.train.pixels(slice(0, 16)), splits.train.labels[:16]
    worst = 2 * _loss(job, 1.0)["worst_cross_entropy"].item()
    ball = ThreatModel(norm="linf", epsilon=0.25)
    for seed in range(5):
        points = ball.random_start(clean, range(seed * 16, seed * 16 + 16))
        loss = torch.nn.functional.cross_entropy(job.module(points), labels).item()
        assert loss <= worst + 1e-4


def test_the_run_says_what_is_proved_apart_from_what_attacks_found(run, recipe, tmp_path) -> None:
    manifest, folder = run(recipe, tmp_path), tmp_path / "models" / recipe.name
    figures = manifest.about["held_out"]
    assert figures["verified"] <= figures["white_box"] <= figures["clean"]
    empirical, proved = (folder / "README.md").read_text().split("## Verified")
    assert "| white_box |" in empirical
    assert "verified |" not in empirical
    assert f"epsilon 0.2, proved by interval bounds: {figures['verified']:.4f}" in proved
    assert "trained together with the denoiser by interval bounds" in empirical
    defence = load_bundle(folder).defence
    bounds = Bounds(defence)
    digits = load("rendered-digits:test", None).subset(slice(0, 100))
    assert verified_accuracy(defence, digits, 0.0) == accuracy(defence, digits)
    small = verified(bounds, digits.pixels(slice(None)), digits.labels, 0.001).float().mean()
    assert float(small) <= accuracy(defence, digits)
