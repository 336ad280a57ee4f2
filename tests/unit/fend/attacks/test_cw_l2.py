"""Carlini & Wagner's L2 attack: known optima, its search for c, its margin and its targets."""

import pytest
import torch
from torch import Tensor

from fend.attacks import CWL2, DeepFool, Objective, attack
from fend.threat import ThreatModel

WIDE = ThreatModel(norm="l2", epsilon=50)


def drawn_weights(pixels: int) -> Tensor:
    return torch.randn(pixels, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_a_linear_model_is_attacked_to_its_optimum_at_any_scale(scale) -> None:
    """c has to be found for each scale of the logits."""
    images = 0.4 + 0.2 * torch.rand(8, 3, 2, 4, generator=torch.Generator().manual_seed(1))
    weights = drawn_weights(24)

    def model(batch: Tensor) -> Tensor:
        score = scale * ((batch.flatten(1) - 0.5) @ weights - 0.8)
        return torch.stack([torch.zeros_like(score), score], dim=1)

    labels = model(images).argmax(1)
    best = model(images)[:, 1].abs() / scale / weights.norm()
    attacker = CWL2(steps=300, searches=8, initial_c=0.01, early_stop=False)
    result = attack(attacker, model, images, labels, WIDE)
    assert bool(result.fooled.all())
    ratio = result.distance / best
    assert float(ratio.min()) > 1 - 1e-3
    assert float(ratio.max()) < 1.03


def test_perturbations_are_smaller_than_deepfools(digit_classifier, digit_batch) -> None:
    pixels, labels = (part[:8] for part in digit_batch)
    attacker = CWL2(steps=100, searches=7, initial_c=0.3, step_size=0.2, early_stop=False)
    by_cw = attack(attacker, digit_classifier, pixels, labels, WIDE)
    by_deepfool = attack(DeepFool(), digit_classifier, pixels, labels, WIDE)
    assert bool(by_cw.fooled.all())
    assert float(by_cw.distance.mean()) < float(by_deepfool.distance.mean())


@pytest.mark.parametrize("kappa", [0.0, 3.0])
def test_kappa_is_the_margin_won_by(kappa, digit_classifier, digit_batch) -> None:
    pixels, labels = (part[:6] for part in digit_batch)
    attacker = CWL2(kappa=kappa, steps=60, searches=3, initial_c=1, step_size=0.05)
    result = attack(attacker, digit_classifier, pixels, labels, WIDE)
    logits = digit_classifier(result.adversarial)
    margin = Objective(loss="margin").values(logits, labels)
    assert bool((margin >= kappa - 1e-3).all())
    assert float(margin.max()) < kappa + 3


def test_a_margin_out_of_reach_still_returns_what_fools() -> None:
    def model(images: Tensor) -> Tensor:
        score = images.flatten(1).mean(1) - 0.6  # 0.4 at most
        return torch.stack([torch.zeros_like(score), score], dim=1)

    images, labels = torch.full((3, 1, 2, 3), 0.5), torch.zeros(3, dtype=torch.long)
    attacker = CWL2(kappa=1, steps=40, searches=3, initial_c=10, step_size=0.1)
    result = attack(attacker, model, images, labels, WIDE)
    assert bool(result.fooled.all())
    assert bool(result.seen_fooled.all())


def test_targets_are_reached(digit_classifier, digit_batch) -> None:
    pixels, labels = (part[:6] for part in digit_batch)
    objective = Objective(loss="margin", goal="targeted", label_source="random")
    attacker = CWL2(objective=objective, steps=60, searches=3, initial_c=1, step_size=0.05)
    result = attack(attacker, digit_classifier, pixels, labels, WIDE)
    assert bool(result.reached.all())
    assert len(set(digit_classifier(result.adversarial).argmax(1).tolist())) > 2


def test_a_descent_that_stands_still_is_ended(digit_classifier, digit_batch) -> None:
    """By each image for itself; the others go on."""

    def hopeless(images: Tensor) -> Tensor:
        logits = digit_classifier(images)
        return torch.cat([logits[:, :9], torch.full_like(logits[:, :1], 1e6)], dim=1)

    pixels, labels = (part[:6] for part in digit_batch)
    attacker = CWL2(steps=100, searches=1)
    result = attack(attacker, hopeless, pixels, torch.full_like(labels, 9), WIDE)
    assert not result.fooled.any()
    assert result.backward_passes <= 20 * 6
