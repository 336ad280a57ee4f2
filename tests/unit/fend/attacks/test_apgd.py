"""APGD and the DLR loss: against PGD, a peer, known optima, and models that hide their gradient."""

import warnings

import pytest
import torch
from pydantic import ValidationError
from refusals import code
from torch import Tensor, nn
from torch.nn import functional as F

from fend.attacks import APGD, PGD, Objective, attack, needs_classes
from fend.errors import Invalid
from fend.threat import ThreatModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the peer's own imports warn
    import torchattacks


DLR = Objective(loss="dlr")
MARGIN = Objective(loss="margin")


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.05), ("linf", 0.1), ("l2", 1.5)], ids=str)
def test_apgd_is_at_least_as_strong_as_pgd(norm, epsilon, digit_classifier, digit_batch) -> None:
    """ART's APGD ranks below its own PGD in AttackBench."""
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    by_pgd = attack(PGD(steps=20), digit_classifier, *digit_batch, threat)
    by_apgd = attack(APGD(steps=20), digit_classifier, *digit_batch, threat)
    assert int(by_apgd.fooled.sum()) >= int(by_pgd.fooled.sum())
    assert 0.02 < float(by_pgd.fooled.float().mean()) < 0.98, "epsilon leaves nothing to compare"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 1.5)])
def test_apgd_agrees_with_a_peer(norm, epsilon, digit_classifier, digit_batch) -> None:
    """Within 1.5 % of the images, about 3 of 200, and 10 % of the loss."""
    pixels, labels = digit_batch
    attacker = APGD(steps=20, early_stop=False)
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    ours = attack(attacker, digit_classifier, pixels, labels, threat).adversarial
    names = {"linf": "Linf", "l2": "L2"}
    peer = torchattacks.APGD(digit_classifier, norm=names[norm], eps=epsilon, steps=20)
    theirs = peer(pixels, labels)

    def outcome(images: Tensor) -> tuple[float, float]:
        logits = digit_classifier(images.detach())
        return float((logits.argmax(1) != labels).float().mean()), float(
            F.cross_entropy(logits, labels)
        )

    (our_share, our_loss), (their_share, their_loss) = outcome(ours), outcome(theirs)
    assert abs(our_share - their_share) <= 0.015
    assert our_loss >= 0.9 * their_loss


def test_the_optimum_is_met_inside_the_ball_and_on_its_surface() -> None:
    """A fixed step circles an optimum; steps that halve, from the best point, close in on it."""

    class Hill(nn.Module):
        """Class 1 grows towards a grey level that differs by channel, and never wins."""

        def forward(self, images: Tensor) -> Tensor:
            away = images.mean((2, 3)) - torch.tensor([0.537, 0.41, 0.8])
            score = -1 - away.square().sum(1)
            return torch.stack([torch.zeros_like(score), score], dim=1)

    images, labels = torch.full((2, 3, 4, 5), 0.5), torch.zeros(2, dtype=torch.long)
    threat = ThreatModel(epsilon=0.1)
    found = attack(
        APGD(steps=100, objective=MARGIN), Hill(), images, labels, threat
    ).adversarial.mean((2, 3))
    best = torch.tensor([0.537, 0.41, 0.6])  # the last one as near as the ball allows
    assert torch.allclose(found, best.expand(2, 3), atol=1e-3)
    fixed = PGD(steps=100, step_size=0.1, objective=MARGIN)
    other = attack(fixed, Hill(), images, labels, threat).adversarial.mean((2, 3))
    assert not torch.allclose(other, best.expand(2, 3), atol=1e-3)


class Chain(nn.Module):
    """Class 1 grows by one pixel after another, each of no use before the one before it has moved.

    Every step of use raises the loss, for a hundred steps on end; class 1 never wins.
    """

    def forward(self, images: Tensor) -> Tensor:
        arrived = moved(images).detach() > 0.7
        reachable = torch.cumprod(arrived.float(), 1).roll(1, 1)
        reachable[:, 0] = 1
        score = 0.01 * (moved(images) * reachable).sum(1) - 3
        return torch.stack([torch.zeros_like(score), score], dim=1)


def moved(images: Tensor) -> Tensor:
    """How far each pixel is from grey, in shares of epsilon."""
    return (images.flatten(1) - 0.5) / 0.1


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_a_target_that_comes_nearer_does_not_halve_the_steps(loss) -> None:
    """ART #840: the targeted step halving had the sign of the untargeted one, so that a window of
    nothing but progress halved the step size."""
    images, labels = torch.full((2, 1, 8, 10), 0.5), torch.zeros(2, dtype=torch.long)
    away = Objective(loss=loss)
    towards = Objective(loss=loss, goal="targeted", label_source="least_likely")
    links = []
    for attacker in (
        APGD(objective=away),
        APGD(objective=towards),
        APGD(objective=away, targets=1),
    ):
        result = attack(attacker, Chain(), images, labels, ThreatModel(epsilon=0.1))
        arrived = moved(result.adversarial) > 0.7
        links.append(torch.cumprod(arrived.int(), 1).sum(1).tolist())
    assert links[0] == links[1] == links[2]
    assert min(links[0]) > 70, "with steps halved at every look it is fewer than 50"


def test_logits_of_any_scale_do_not_blind_dlr(digit_classifier, digit_batch) -> None:
    """At 10,000 times the logits, softmax is exactly one-hot and cross-entropy has no gradient."""

    def confident(images: Tensor) -> Tensor:
        return 1e4 * digit_classifier(images)

    threat = ThreatModel(epsilon=0.1)
    shares = {
        name: float(attack(attacker, model, *digit_batch, threat).fooled.float().mean())
        for name, attacker, model in [
            ("cross_entropy", APGD(steps=10), digit_classifier),
            ("dlr", APGD(steps=10, objective=DLR), digit_classifier),
            ("cross_entropy, scaled", APGD(steps=10), confident),
            ("dlr, scaled", APGD(steps=10, objective=DLR), confident),
        ]
    }
    assert shares["cross_entropy"] > 0.4
    assert shares["cross_entropy, scaled"] < 0.05, "the model no longer blinds cross-entropy"
    assert abs(shares["dlr, scaled"] - shares["dlr"]) <= 0.01
    assert shares["dlr"] > 0.4


@pytest.mark.parametrize(
    "objective", [DLR, Objective(loss="dlr", goal="targeted", label_source="random")], ids=repr
)
def test_dlr_ignores_scale_and_shift(objective) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 6, generator=generator)
    labels = torch.randint(6, (50,), generator=generator)
    values = objective.values(logits, labels)
    assert torch.allclose(objective.values(37 * logits + 5, labels), values, atol=1e-4)


def test_dlr_is_the_published_ratio() -> None:
    logits = torch.tensor([[5.0, 3.0, 2.0, 1.0, 0.0]])
    label, target = torch.tensor([0]), torch.tensor([3])
    towards = Objective(loss="dlr", goal="targeted", label_source="least_likely")
    assert float(DLR.values(logits, label)) == pytest.approx(-(5 - 3) / (5 - 2))
    assert float(DLR.values_towards(logits, label, target)) == pytest.approx(
        -(5 - 1) / (5 - (2 + 1) / 2)
    )
    assert float(towards.values(logits, target)) == pytest.approx(-(5 - 1) / (5 - (2 + 1) / 2))


def test_targets_reach_classes_that_the_nearest_one_hides() -> None:
    """Why APGD-T: the runner-up has the gradient but cannot win, and a farther class can."""

    class Decoy(nn.Module):
        """Class 1 ends just below class 0; class 2 starts lower, but wins at its pixel's top."""

        def forward(self, images: Tensor) -> Tensor:
            left, right = images[:, 0, 0, 0], images[:, 0, 0, 1]
            decoy = (left - 0.5).clamp(max=0.05) - 0.06
            others = [10 * (right - 0.599), torch.full_like(left, -9.0)]
            return torch.stack([torch.zeros_like(left), decoy, *others], dim=1)

    images, labels = torch.full((20, 1, 1, 2), 0.5), torch.zeros(20, dtype=torch.long)
    threat = ThreatModel(epsilon=0.1)

    def fooled(attacker: APGD) -> int:
        return int(attack(attacker, Decoy(), images, labels, threat).fooled.sum())

    assert fooled(APGD(objective=MARGIN)) < 5
    assert fooled(APGD(objective=MARGIN, targets=1)) < 5
    assert fooled(APGD(objective=MARGIN, targets=2)) == 20


def test_broken_images_leave_the_batch_for_the_next_targets(digit_classifier, digit_batch) -> None:
    threat = ThreatModel(epsilon=0.1)
    options = {"steps": 5, "targets": 3, "objective": DLR}
    early = attack(APGD(**options), digit_classifier, *digit_batch, threat)
    full = attack(APGD(**options, early_stop=False), digit_classifier, *digit_batch, threat)
    images = len(digit_batch[0])
    assert full.backward_passes == 3 * 5 * images
    # The clean answer, five steps and the last iterate for each target, and the judge.
    assert full.forward_passes == (2 + 3 * 6) * images
    assert early.backward_passes < full.backward_passes
    assert torch.equal(early.fooled, full.fooled)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_few_steps_are_steps_too(steps, digit_classifier, digit_batch) -> None:
    pixels, labels = (part[:20] for part in digit_batch)
    attacker = APGD(steps=steps, early_stop=False)
    result = attack(attacker, digit_classifier, pixels, labels, ThreatModel(epsilon=0.3))
    assert result.backward_passes == steps * 20
    assert bool(result.fooled.any())


@pytest.mark.parametrize(
    ("attacker", "needed"),
    [
        (APGD(), 2),
        (APGD(objective=DLR), 3),
        (APGD(targets=2), 3),
        (APGD(targets=1, objective=DLR), 4),
        (APGD(targets=9, objective=DLR), 10),
        (PGD(objective=Objective(loss="dlr", goal="targeted", label_source="random")), 4),
    ],
    ids=repr,
)
def test_too_few_classes_are_refused_in_words(attacker, needed) -> None:
    assert needs_classes(attacker) == needed
    images = torch.rand(2, 1, 3, 4, generator=torch.Generator().manual_seed(0))
    labels, threat = torch.zeros(2, dtype=torch.long), ThreatModel(epsilon=0.1)
    weights = torch.randn(12, 12, generator=torch.Generator().manual_seed(1))

    def model(classes: int):
        return lambda batch: batch.flatten(1) @ weights[:, :classes]

    attack(attacker, model(needed), images, labels, threat)
    message = f"{needed} classes or more, and the model has {needed - 1}"
    with pytest.raises(Invalid, match=message, check=code("attack_invalid")):
        attack(attacker, model(needed - 1), images, labels, threat)


def test_targets_and_a_target_are_refused() -> None:
    objective = Objective(goal="targeted", label_source="random")
    with pytest.raises(ValidationError, match="leave it out"):
        APGD(targets=3, objective=objective)
    with pytest.raises(ValidationError, match="leave targets out"):
        APGD(targets=3, objective=Objective(loss="feature_distance"))
