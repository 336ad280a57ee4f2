"""HopSkipJump: labels are all it sees, queries are all it spends, and it comes near the optimum."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fend.attacks import HopSkipJump, attack
from fend.threat import ThreatModel


def linear(weights: Tensor):
    def model(batch: Tensor) -> Tensor:
        score = (batch.flatten(1) - 0.5) @ weights - 0.4
        return torch.stack([torch.zeros_like(score), score], dim=1)

    return model


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 2, 5)])
def test_a_linear_model_is_attacked_to_near_its_optimum(shape, norm) -> None:
    generator = torch.Generator().manual_seed(1)
    images = 0.45 + 0.1 * torch.rand(8, *shape, generator=generator)
    weights = torch.randn(images[0].numel(), generator=generator)
    model = linear(weights)
    labels = model(images).argmax(1)
    best = model(images)[:, 1].abs() / (weights.abs().sum() if norm == "linf" else weights.norm())
    attacker = HopSkipJump(queries=4_000, early_stop=False)
    result = attack(attacker, model, images, labels, ThreatModel(norm=norm, epsilon=20))
    ratio = result.distance / best
    assert bool(result.fooled.all())
    assert float(ratio.min()) > 1 - 1e-3
    assert float(ratio.max()) < 1.2


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nothing_but_labels_is_used(norm, digit_classifier, digit_batch) -> None:
    """One-hot answers, without a graph, give the same images bit by bit."""
    pixels, labels = (part[:4] for part in digit_batch)

    def labels_only(images: Tensor) -> Tensor:
        with torch.no_grad():
            return F.one_hot(digit_classifier(images).argmax(1), 10).float()

    threat = ThreatModel(norm=norm, epsilon=20)
    attacker = HopSkipJump(queries=400, probes=30, early_stop=False)
    with_scores = attack(attacker, digit_classifier, pixels, labels, threat)
    without = attack(attacker, labels_only, pixels, labels, threat)
    assert torch.equal(without.adversarial, with_scores.adversarial)
    assert without.backward_passes == 0
    assert bool(without.fooled.all())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_queries_make_perturbations_smaller(norm, digit_classifier, digit_batch) -> None:
    pixels, labels = (part[:10] for part in digit_batch)
    threat = ThreatModel(norm=norm, epsilon=20)

    def mean_distance(queries: int) -> float:
        attacker = HopSkipJump(queries=queries, early_stop=False)
        result = attack(attacker, digit_classifier, pixels, labels, threat)
        assert bool(result.fooled.all())
        return float(result.distance.mean())

    start, later = mean_distance(130), mean_distance(1_000)
    assert later < 0.6 * start


@pytest.mark.parametrize("queries", [1, 7, 30, 200])
def test_queries_are_the_budget_of_each_image(queries) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(5, 1, 3, 4, generator=generator)
    inner = linear(torch.randn(12, generator=generator))
    labels = inner(images).argmax(1)
    for row in range(5):
        result = attack(
            HopSkipJump(queries=queries, probes=20, early_stop=False), inner,
            images[row : row + 1], labels[row : row + 1], ThreatModel(epsilon=1), sample_ids=[row],
        )  # fmt: skip
        assert result.forward_passes <= queries + 2  # the clean answer and the judge


def test_a_model_that_calls_all_fine_noise_one_class_is_attacked_there() -> None:
    """Why the first noise comes in squares of several sizes: there is a shipped model like this."""

    def model(images: Tensor) -> Tensor:
        coarse = F.avg_pool2d(images, 4).flatten(1)
        contrast = coarse.std(1) - 0.12
        return torch.stack([torch.zeros_like(contrast), contrast], dim=1)

    images, labels = torch.full((4, 1, 16, 24), 0.5), torch.zeros(4, dtype=torch.long)
    result = attack(
        HopSkipJump(queries=200, initial_tries=20), model, images, labels, ThreatModel(epsilon=1)
    )
    assert bool(result.fooled.all())
