"""Adversarial training of a classifier: what it learns from, and what its losses are."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fend.models import build
from fend.threat import ThreatModel
from training.loop import StepContext
from training.losses.adversarial import adversarial_terms, kl_divergence, make_adversarial
from training.recipe.schema import AdversarialSection

COUNT = 12


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(COUNT, 1, 28, 28, generator=generator), torch.arange(COUNT) % 10


@pytest.fixture
def classifier() -> nn.Module:
    torch.manual_seed(0)
    return build("paper-lenet", {}).train()


def _section(kind: str, **options) -> AdversarialSection:
    weight = None if kind == "madry" else 0.7
    threat = options.pop("threat", ThreatModel(epsilon=0.1))
    return AdversarialSection(kind=kind, threat=threat, steps=5, weight=weight, **options)


def _moment(progress: float = 1.0) -> StepContext:
    return StepContext(progress, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["madry", "trades", "alp"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_are_worse_than_clean_within_the_ball_and_the_box(classifier, batch, kind, norm):
    images, labels = batch
    threat = ThreatModel(norm=norm, epsilon=0.1 if norm == "linf" else 1.0)
    made = make_adversarial(_section(kind, threat=threat), classifier, images, labels, _moment())
    assert float(threat.measure(images, made).max()) <= threat.epsilon + 1e-5
    assert float(made.min()) >= 0
    assert float(made.max()) <= 1
    assert not made.requires_grad
    start = threat.random_start(images, range(COUNT))
    assert _harm(kind, classifier, images, labels, made) > 5 * abs(
        _harm(kind, classifier, images, labels, start)
    )


@torch.no_grad()
def _harm(
    kind: str,
    classifier: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    changed: torch.Tensor,
) -> float:
    """How much `changed` raises what the attacker of this kind maximises."""
    clean, attacked = classifier(images), classifier(changed)
    if kind == "trades":
        return float(kl_divergence(clean, attacked))
    return float(F.cross_entropy(attacked, labels) - F.cross_entropy(clean, labels))


def test_epsilon_and_the_step_grow_over_the_ramp(classifier, batch) -> None:
    images, labels = batch
    for progress, allowed in ((0.0, 0.0), (0.25, 0.05), (0.5, 0.1), (1.0, 0.1)):
        section = _section("madry", ramp=0.5, step_size=0.02)
        made = make_adversarial(section, classifier, images, labels, _moment(progress))
        assert float((made - images).abs().max()) == pytest.approx(allowed, abs=1e-6)


def test_batch_statistics_are_not_those_of_the_ascent(batch) -> None:
    """TRADES' authors: generate in eval mode, learn in train mode."""
    images, labels = batch
    classifier = build("resnet-18", {"channels": 1, "width": 4}).train()
    norm = next(m for m in classifier.modules() if isinstance(m, nn.BatchNorm2d))
    make_adversarial(_section("madry"), classifier, images, labels, _moment())
    assert int(norm.num_batches_tracked) == 0
    assert classifier.training
    adversarial_terms(_section("trades"), classifier, images, labels, _moment())
    assert int(norm.num_batches_tracked) == 1


def test_the_losses_are_the_published_ones(classifier, batch) -> None:
    images, labels = batch
    with torch.no_grad():
        clean = classifier(images)
        for kind in ("madry", "trades", "alp"):
            section = _section(kind)
            with torch.enable_grad():
                adversarial = make_adversarial(section, classifier, images, labels, _moment())
                terms = adversarial_terms(section, classifier, images, labels, _moment())
            attacked = classifier(adversarial)
            found = {name: float(term) for name, term in terms.items()}
            error, clean_error = F.cross_entropy(attacked, labels), F.cross_entropy(clean, labels)
            if kind == "madry":
                assert found == pytest.approx({"cross_entropy": float(error)}, rel=1e-4)
            elif kind == "trades":
                p, q = clean.softmax(1), attacked.softmax(1)
                divergence = float((p * (p / q).log()).sum(1).mean())
                expected = {"cross_entropy": float(clean_error), "divergence": 0.7 * divergence}
                assert found == pytest.approx(expected, rel=1e-3)
            else:
                pairing = float((clean - attacked).norm(dim=1).square().mean())
                mixed = float(error + clean_error) / 2
                expected = {"cross_entropy": mixed, "pairing": 0.7 * pairing}
                assert found == pytest.approx(expected, rel=1e-3)


def test_a_divergence_is_zero_for_equal_answers_and_positive_else() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    assert float(kl_divergence(logits, logits)) == pytest.approx(0, abs=1e-7)
    even = torch.zeros(1, 2)
    expected = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(kl_divergence(logits, even)) == pytest.approx(expected, rel=1e-5)


def test_one_step_from_noise_is_not_projected(classifier, batch) -> None:
    images, labels = batch
    section = AdversarialSection(kind="madry", attack="n-fgsm", threat=ThreatModel(epsilon=0.05))
    made = make_adversarial(section, classifier, images, labels, _moment())
    assert classifier.training
    assert not made.requires_grad
    away = (made - images).abs()
    assert 0.1 < float(away.max()) <= 0.15 + 1e-6  # noise of two epsilon and a step of one
    assert float(made.min()) < 0  # nor clipped
    assert _harm("madry", classifier, images, labels, made) > 0


def test_one_step_from_noise_may_have_an_epsilon_for_each_image(classifier, batch) -> None:
    images, labels = batch
    section = AdversarialSection(
        kind="madry", attack="n-fgsm", threat=ThreatModel(epsilon=0.1), weakest=0.2
    )
    away = (make_adversarial(section, classifier, images, labels, _moment()) - images).abs()
    largest = away.amax((1, 2, 3)) / 0.3  # as a share of epsilon, nearly
    assert 0.19 < float(largest.min()) < 0.6 < float(largest.max()) <= 1 + 1e-5
