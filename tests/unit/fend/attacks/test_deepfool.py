"""DeepFool: straight to the nearest boundary, no further than a peer goes."""

import warnings

import pytest
import torch
from torch import Tensor

from fend.attacks import DeepFool, attack
from fend.threat import ThreatModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the peer's own imports warn
    import foolbox


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("overshoot", [0.02, 0.3])
def test_a_linear_model_falls_in_one_step_of_the_right_length(norm, overshoot) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(15, generator=generator)
    images = 0.45 + 0.1 * torch.rand(10, 1, 3, 5, generator=generator)

    def model(batch: Tensor) -> Tensor:
        score = (batch.flatten(1) - 0.5) @ weights - 0.5
        return torch.stack([torch.zeros_like(score), score], dim=1)

    labels = model(images).argmax(1)
    gap = model(images)[:, 1].abs()
    best = gap / (weights.abs().sum() if norm == "linf" else weights.norm())
    attacker = DeepFool(overshoot=overshoot)
    result = attack(attacker, model, images, labels, ThreatModel(norm=norm, epsilon=5))
    assert result.backward_passes == 10
    nudge = 1e-4
    assert torch.allclose(result.distance, (1 + overshoot) * (best + nudge), rtol=1e-3)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturbations_are_as_small_as_a_peers(norm, digit_classifier, digit_batch) -> None:
    pixels, labels = (part[:30] for part in digit_batch)
    threat = ThreatModel(norm=norm, epsilon=20)
    ours = attack(DeepFool(), digit_classifier, pixels, labels, threat)
    kinds = {"linf": foolbox.attacks.LinfDeepFoolAttack, "l2": foolbox.attacks.L2DeepFoolAttack}
    peer = foolbox.PyTorchModel(digit_classifier, bounds=(0, 1), device="cpu")
    theirs = kinds[norm]()(peer, pixels, labels, epsilons=None)[1]
    assert bool(ours.fooled.all())
    assert float(ours.distance.mean()) <= 1.02 * float(threat.measure(pixels, theirs).mean())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_box_does_not_keep_it_from_crossing(norm) -> None:
    """Without the authors' nudge, steps cut short by the box come ever nearer and never cross."""
    images = torch.zeros(1, 1, 2, 4)
    images[..., :1] = 0.5  # only these two pixels have room to go down

    def model(batch: Tensor) -> Tensor:
        dark = -batch.flatten(1).sum(1) + 0.7
        return torch.stack([torch.zeros_like(dark), dark], dim=1)

    labels = torch.zeros(1, dtype=torch.long)
    result = attack(DeepFool(), model, images, labels, ThreatModel(norm=norm, epsilon=5))
    assert bool(result.fooled.all())


def test_the_nearest_class_is_not_the_likeliest() -> None:
    def model(images: Tensor) -> Tensor:
        left, right = images[:, 0, 0, 0], images[:, 0, 0, 1]
        flat, steep = 0.1 * (left - 0.5) - 0.03, 10 * (right - 0.5) - 0.5
        return torch.stack([torch.zeros_like(left), flat, steep], dim=1)

    images, labels = torch.full((2, 1, 1, 2), 0.5), torch.zeros(2, dtype=torch.long)
    threat = ThreatModel(epsilon=1)
    both = attack(DeepFool(), model, images, labels, threat)
    assert both.distance.tolist() == pytest.approx([0.051, 0.051], abs=1e-3)
    likeliest = attack(DeepFool(candidates=1), model, images, labels, threat)
    assert likeliest.distance.tolist() == pytest.approx([0.306, 0.306], abs=1e-3)
    assert likeliest.backward_passes * 2 == both.backward_passes
