"""Square: its limits, its reach, and that it works where there is no gradient at all."""

import pytest
import torch
from refusals import code
from torch import Tensor, nn

from fend.attacks import Noise, Objective, Square, attack
from fend.audit import from_request
from fend.errors import Invalid
from fend.threat import ThreatModel


@pytest.mark.parametrize("epsilon", [0.0, 0.03, 0.3])
@pytest.mark.parametrize(
    "attacker",
    [
        Square(queries=1),
        Square(queries=30),
        Square(queries=30, early_stop=False, initial_share=0.1),
        Square(queries=30, objective=Objective(goal="targeted", label_source="random")),
    ],
    ids=repr,
)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 4, 9)])
def test_square_stays_in_its_threat_model(shape, attacker, epsilon) -> None:
    """auto-attack #95: images had to be as high as wide."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, *shape, generator=generator)
    pixels = images[0].numel()
    weights = torch.randn(pixels, 4, generator=generator)

    def model(batch: Tensor) -> Tensor:
        return batch.flatten(1) @ weights

    labels = model(images).argmax(1)
    threat = ThreatModel(epsilon=epsilon)
    result = attack(attacker, model, images, labels, threat)
    assert float(result.distance.max()) <= epsilon + 1e-6
    assert float(result.adversarial.min()) >= 0
    assert float(result.adversarial.max()) <= 1
    if epsilon == 0:
        assert torch.equal(result.adversarial, images)
        assert not result.fooled.any()


@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_every_corner_can_be_changed_by_itself(corner) -> None:
    """auto-attack: an exclusive bound, so that squares never touch the last row and column."""
    row, column = corner

    class Corner(nn.Module):
        """Class 1 when the corner is bright and the rest on average is not."""

        def forward(self, images: Tensor) -> Tensor:
            bright = images[:, 0, row, column] - images.mean((1, 2, 3))
            return torch.stack([torch.full_like(bright, 0.15), bright], dim=1)

    images, labels = torch.full((16, 1, 5, 8), 0.5), torch.zeros(16, dtype=torch.long)
    result = attack(Square(queries=600), Corner(), images, labels, ThreatModel(epsilon=0.1))
    assert bool(result.fooled.all())


@pytest.mark.parametrize("shape", [(1, 4, 4), (1, 3, 7), (3, 5, 2)])
def test_a_linear_model_is_attacked_to_near_its_optimum(shape) -> None:
    generator = torch.Generator().manual_seed(1)
    images = 0.4 + 0.2 * torch.rand(8, *shape, generator=generator)
    weights = torch.randn(images[0].numel(), generator=generator)

    def model(batch: Tensor) -> Tensor:
        score = (batch - images.mean()).flatten(1) @ weights - 100  # never fooled
        return torch.stack([torch.zeros_like(score), score], dim=1)

    labels = torch.zeros(8, dtype=torch.long)
    threat = ThreatModel(epsilon=0.1)
    result = attack(Square(queries=1_500), model, images, labels, threat)
    gained = (model(result.adversarial) - model(images))[:, 1]
    reached = gained / (0.1 * weights.abs().sum())
    assert float(reached.min()) > 0.9
    assert float(reached.max()) <= 1 + 1e-3


def test_square_needs_no_gradient(digit_classifier, digit_batch) -> None:
    """A model behind an API, or one that hides its gradient: only scores come back."""

    def scores_only(images: Tensor) -> Tensor:
        with torch.no_grad():
            return (digit_classifier(images) * 100).round() / 100

    pixels, labels = (part[:40] for part in digit_batch)
    threat = ThreatModel(epsilon=0.2)
    searched = attack(Square(queries=200), scores_only, pixels, labels, threat)
    control = attack(Noise(draws=200), scores_only, pixels, labels, threat)
    assert searched.backward_passes == 0
    assert float(searched.fooled.float().mean()) > 0.4
    assert int(control.fooled.sum()) * 2 < int(searched.fooled.sum())


def test_an_answer_does_not_depend_on_the_batch(digit_classifier, digit_batch) -> None:
    """auto-attack draws one square and sign for the whole batch."""

    def one_by_one(batch: Tensor) -> Tensor:
        # A convolution rounds differently in another batch, and a rare near-tie hangs on that.
        return torch.cat([digit_classifier(image[None]) for image in batch])

    pixels, labels = (part[:12] for part in digit_batch)
    threat = ThreatModel(epsilon=0.1)
    attacker = Square(queries=120)  # more than one block of random numbers
    together = attack(attacker, one_by_one, pixels, labels, threat, seed=4)
    for ids in ([7], [11, 2, 5]):
        part = attack(
            attacker, one_by_one, pixels[ids], labels[ids], threat, seed=4, sample_ids=ids
        )
        assert torch.equal(part.adversarial, together.adversarial[ids])
    # The perturbations of two images are not one and the same.
    signs = (together.adversarial - pixels).sign()
    assert not torch.equal(signs[7], signs[5])
    other = attack(attacker, one_by_one, pixels, labels, threat, seed=5)
    assert not torch.equal(other.adversarial, together.adversarial)


def test_queries_are_the_budget(digit_classifier, digit_batch) -> None:
    pixels, labels = (part[:10] for part in digit_batch)
    attacker = Square(queries=25, early_stop=False)
    threat = ThreatModel(epsilon=0.01)
    result = attack(attacker, digit_classifier, pixels, labels, threat)
    assert result.forward_passes == (1 + 25 + 1) * 10  # the clean answer, and the judge


def test_squares_shrink_with_the_budget_not_with_the_count() -> None:
    """AutoAttack's 5,000 queries keep the schedule of 10,000, and never get to small squares."""
    asked: dict[int, list[Tensor]] = {}

    def smallest_change_px(queries: int) -> int:
        def model(images: Tensor) -> Tensor:
            asked.setdefault(queries, []).append(images)
            return torch.zeros(len(images), 2)  # nothing helps, so the search stays at its stripes

        images, labels = torch.full((4, 1, 28, 28), 0.5), torch.zeros(4, dtype=torch.long)
        attack(Square(queries=queries), model, images, labels, ThreatModel(epsilon=0.1))
        _, stripes, *rest = asked[queries][:-1]  # the clean images, ..., the judge's
        sides = [int((image != stripes).any(3).sum(2).max()) for image in rest]
        assert sides[0] > 8
        return max(sides[-queries // 10 :])

    assert smallest_change_px(60) == smallest_change_px(300) == 1


def test_l2_is_refused_before_and_within_an_audit() -> None:
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    with pytest.raises(
        Invalid,
        match=r"square is made for linf, and threat\.norm is l2",
        check=code("attack_invalid"),
    ):
        attack(
            Square(), lambda batch: batch.flatten(1), images, labels,
            ThreatModel(norm="l2", epsilon=1),
        )  # fmt: skip
    request = {
        "model": "mnist",
        "attacks": [{"name": "square"}],
        "knowledge": ["query"],
        "threat": {"norm": "l2", "epsilon": 1},
    }
    with pytest.raises(Invalid, match="square is made for linf"):
        from_request(request)
