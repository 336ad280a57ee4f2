"""FAB: near known optima, no weaker than APGD or a peer, and not blinded by large logits."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from fend.attacks import APGD, FAB, DeepFool, attack
from fend.threat import ThreatModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the peer's own imports warn
    import torchattacks

TO_THE_END = FAB(early_stop=False)


class Linear(nn.Module):
    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weights", torch.randn(pixels, classes, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weights


def optimum(model: Linear, images: Tensor, norm: str) -> Tensor:
    """The distance (N,) to the nearest boundary of a linear model, where no wall is in the way."""
    logits = model(images)
    label = logits.argmax(1)
    gaps = logits.gather(1, label[:, None]) - logits
    normals = model.weights[:, label].T[:, :, None] - model.weights
    size = normals.abs().sum(1) if norm == "linf" else normals.norm(dim=1)
    distances = gaps / size.clamp_min(1e-12)
    return distances.scatter(1, label[:, None], torch.inf).amin(1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 3)])
@pytest.mark.parametrize("targets", [None, 9])
def test_a_linear_model_is_attacked_at_its_nearest_boundary(targets, shape, norm) -> None:
    images = 0.45 + 0.1 * torch.rand(20, *shape, generator=torch.Generator().manual_seed(1))
    model = Linear(images[0].numel(), 6)
    attacker = FAB(targets=targets, steps=20, early_stop=False)
    best = optimum(model, images, norm)
    threat = ThreatModel(norm=norm, epsilon=10)
    result = attack(attacker, model, images, model(images).argmax(1), threat)
    ratio = result.distance / best
    moved = (result.adversarial - images).abs()
    assert float(moved.max()) < 0.45, "a wall of the box is in the way"
    assert bool(result.fooled.all())
    assert float(ratio.min()) >= 1 - 1e-3
    assert float(ratio.max()) < 1.01


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 1.5)])
def test_the_walls_of_the_box_are_taken_into_account(norm, epsilon) -> None:
    """Half the pixels cannot move towards the boundary, so the others have to go further."""
    weights = torch.tensor([1.0, -1.0]).repeat(8)
    images = torch.where(torch.arange(16) < 8, 0.5, torch.where(weights > 0, 1.0, 0.0))

    def model(batch: Tensor) -> Tensor:
        moved = (batch.flatten(1) - images) @ weights
        return torch.stack([torch.full_like(moved, 0.4), moved], dim=1)

    batch, labels = images.view(1, 1, 4, 4), torch.zeros(1, dtype=torch.long)
    result = attack(TO_THE_END, model, batch, labels, ThreatModel(norm=norm, epsilon=epsilon))
    best = 0.4 / 8 if norm == "linf" else 0.4 / 8**0.5
    assert float(result.distance) == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("linf", 0.05), ("l2", 1.0)])
def test_fab_finds_what_apgd_finds(norm, epsilon, digit_classifier, digit_batch) -> None:
    """Within 1 of 40 images."""
    pixels, labels = (part[:40] for part in digit_batch)
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    by_apgd = attack(APGD(steps=20), digit_classifier, pixels, labels, threat)
    by_fab = attack(FAB(steps=20, targets=3), digit_classifier, pixels, labels, threat)
    assert int(by_fab.fooled.sum()) >= int(by_apgd.fooled.sum()) - 1
    assert 0.02 < float(by_apgd.fooled.float().mean()) < 0.98, "epsilon leaves nothing to compare"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_perturbations_are_as_small_as_a_peers(norm, digit_classifier, digit_batch) -> None:
    pixels, labels = (part[:20] for part in digit_batch)
    threat = ThreatModel(norm=norm, epsilon=20)
    attacker = FAB(steps=10, targets=None, early_stop=False)
    ours = attack(attacker, digit_classifier, pixels, labels, threat)
    names = {"linf": "Linf", "l2": "L2"}
    peer = torchattacks.FAB(digit_classifier, norm=names[norm], eps=20, steps=10)
    theirs = threat.measure(pixels, peer(pixels, labels))
    assert bool(ours.fooled.all())
    assert float(ours.distance.mean()) <= 1.02 * float(theirs.mean())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_goes_on_where_deepfool_stops(norm, digit_classifier, digit_batch) -> None:
    pixels, labels = (part[:20] for part in digit_batch)
    threat = ThreatModel(norm=norm, epsilon=20)
    attacker = FAB(steps=30, targets=3, early_stop=False)
    by_fab = attack(attacker, digit_classifier, pixels, labels, threat)
    by_deepfool = attack(DeepFool(), digit_classifier, pixels, labels, threat)
    assert float(by_fab.distance.mean()) < 0.97 * float(by_deepfool.distance.mean())


def test_logits_of_any_scale_do_not_blind_fab(digit_classifier, digit_batch) -> None:
    pixels, labels = (part[:40] for part in digit_batch)
    threat, attacker = ThreatModel(epsilon=0.1), FAB(steps=10, targets=2)

    def confident(images: Tensor) -> Tensor:
        return 1e6 * digit_classifier(images)

    plain = attack(attacker, digit_classifier, pixels, labels, threat)
    scaled = attack(attacker, confident, pixels, labels, threat)
    assert abs(int(plain.fooled.sum()) - int(scaled.fooled.sum())) <= 1
    assert int(plain.fooled.sum()) > 10


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_restarts_begin_within_half_of_epsilon(norm) -> None:
    asked: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        asked.append(images.detach())
        return torch.tensor([[1.0, 0.0]]).expand(len(images), 2)  # no gradient, never fooled

    images, labels = torch.full((2, 1, 4, 5), 0.5), torch.zeros(2, dtype=torch.long)
    threat = ThreatModel(norm=norm, epsilon=0.2)
    attack(FAB(steps=1, restarts=3), model, images, labels, threat)
    _, first, _, second, _, third, *_ = asked  # the clean answer; a gradient and an answer each
    assert torch.equal(first, images)
    for start in (second, third):
        assert threat.measure(images, start).tolist() == pytest.approx([0.1, 0.1])
    changes = [second[0] - images[0], second[1] - images[1], third[0] - images[0]]
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert not torch.allclose(changes[one], changes[other], atol=1e-3)


def test_a_farther_class_is_reached_by_its_own_run() -> None:
    """The likeliest wrong class never wins: only the run at the second one can."""

    def model(images: Tensor) -> Tensor:
        left, right = images[:, 0, 0, 0], images[:, 0, 0, 1]
        decoy = (left - 0.5).clamp(max=0.05) - 0.06
        others = [10 * (right - 0.58), torch.full_like(left, -9.0)]
        return torch.stack([torch.zeros_like(left), decoy, *others], dim=1)

    images, labels = torch.full((4, 1, 1, 2), 0.5), torch.zeros(4, dtype=torch.long)
    threat = ThreatModel(epsilon=0.1)
    assert not attack(FAB(targets=1, steps=10), model, images, labels, threat).fooled.any()
    assert attack(FAB(targets=2, steps=10), model, images, labels, threat).fooled.all()


def test_the_budget_is_what_it_says(digit_classifier, digit_batch) -> None:
    pixels, labels = (part[:5] for part in digit_batch)
    tiny = ThreatModel(epsilon=1e-4)  # nothing is found, so nothing leaves early
    by_target = attack(FAB(steps=4, targets=3), digit_classifier, pixels, labels, tiny)
    assert by_target.backward_passes == 4 * 3 * 5
    assert by_target.forward_passes == (1 + 2 * 4 * 3 + 1) * 5
    of_all = attack(FAB(steps=4, targets=None), digit_classifier, pixels, labels, tiny)
    assert of_all.backward_passes == 4 * 9 * 5
