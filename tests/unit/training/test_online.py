"""A denoiser that learns from images made through the pipeline: alone, or with the classifier."""

import pytest
import torch
from torch import nn

from fend.bundles import load_bundle
from fend.datasets import load
from fend.models import build
from training.loop import StepContext
from training.recipe.files import load_recipe
from training.recipe.smaller import smoke
from training.stages.online import online_fit


@pytest.fixture(scope="module")
def recipe():
    return smoke(load_recipe("mnist"))


@pytest.fixture
def job_of(context_of):
    """The training of a recipe with `[joint]` or `[online]`."""

    def make(recipe, classifier):
        context, joint = context_of(recipe), recipe.joint is not None
        loss = context.feature_loss(classifier)
        section = recipe.joint if joint else recipe.online
        return online_fit(section, classifier, loss, context, joint=joint)

    return make


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    return build("paper-lenet", {}).requires_grad_(False)


@pytest.fixture
def job(recipe, classifier, job_of):
    return job_of(recipe, classifier)


def _step(progress: float = 1.0) -> StepContext:
    return StepContext(progress, torch.Generator().manual_seed(0))


def test_both_networks_get_a_gradient(job) -> None:
    job.module.train()
    torch.stack(list(job.loss(torch.arange(8), _step()).values())).sum().backward()
    for network in (job.module.denoiser, job.module.classifier):
        assert any(float(p.grad.abs().sum()) > 0 for p in network.parameters())


class _WithStatistics(nn.Module):
    """Another kind of classifier: it learns in train mode even without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(784, 10)
        )

    def forward(self, images):
        return self.layers(images)


def test_online_the_classifier_stays_as_it_is(job_of) -> None:
    recipe = smoke(load_recipe("mnist-online"))
    torch.manual_seed(0)
    classifier = _WithStatistics()
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    job = job_of(recipe, classifier)
    job.module.train()
    first, again = (job.loss(torch.arange(8), _step()) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)  # no dropout
    torch.stack(list(first.values())).sum().backward()
    assert any(float(p.grad.abs().sum()) > 0 for p in job.module.parameters())
    assert all(p.grad is None for p in classifier.parameters())
    assert all(torch.equal(before[key], now) for key, now in classifier.state_dict().items())


def test_what_is_shown_is_further_from_clean_as_epsilon_grows(classifier, job_of) -> None:
    """The identity, which is what the U-Net starts as, leaves just what was added."""
    recipe = smoke(load_recipe("mnist-online", changes=["online.adversarial.ramp=0.5"]))
    job = job_of(recipe, classifier)

    def added(progress: float) -> float:
        return job.loss(torch.arange(8), _step(progress))["pixel"].item()

    assert added(0.0) == 0 < added(0.1) < added(0.25) < added(0.5)
    assert added(0.5) == added(0.9)


def test_without_the_task_only_equation_4_is_left(classifier, job_of) -> None:
    recipe = smoke(load_recipe("mnist-online", changes=["loss.task_weight=0.0"]))
    assert set(job_of(recipe, classifier).loss(torch.arange(8), _step())) == {
        "pixel", "clean_pixel",
    }  # fmt: skip


def test_the_loss_holds_the_denoiser_to_the_clean_image(job) -> None:
    """A denoiser that is the identity changes no clean image, and leaves what was added."""
    terms = {name: term.item() for name, term in job.loss(torch.arange(8), _step()).items()}
    assert terms["clean_pixel"] == 0  # the U-Net starts as the identity
    assert terms["pixel"] > 0
    assert {"cross_entropy", "divergence"} < set(terms)


def test_without_clean_images_only_attacked_ones_are_shown(job_of) -> None:
    """Augmented, and in bfloat16 where the loop asks for it."""
    recipe = smoke(load_recipe("signs"))
    torch.manual_seed(0)
    job = job_of(recipe, build("preact-resnet", recipe.classifier.config))
    shown = []
    job.module.denoiser.register_forward_pre_hook(lambda _, given: shown.append(len(given[0])))
    job.module.train()
    terms = job.loss(torch.arange(8), _step())
    assert set(terms) == {"cross_entropy", "pixel"}
    assert shown == [8, 8]  # the attack's step, then the training's
    assert job.precision == torch.bfloat16


def test_the_run_exports_both_networks_as_they_became(run, recipe, tmp_path) -> None:
    run(recipe, tmp_path)
    folder = tmp_path / "models" / recipe.name
    [start] = (tmp_path / "runs/classifiers").iterdir()
    before = torch.load(start / "checkpoint.pt", weights_only=True)["best_weights"]
    bundle = load_bundle(folder)
    after = bundle.defence.classifier.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    digits = load("rendered-digits:test", None)
    answers = bundle.defence(digits.pixels(slice(None))).argmax(1)
    assert float((answers == digits.labels).float().mean()) > 0.8
    card = (folder / "README.md").read_text()
    assert "trained together with the denoiser: trades" in card
