"""What an attack says about itself: finds that were lost, no gradient, a broken one, no end."""

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from pydantic import BaseModel
from refusals import code
from torch import Tensor, nn
from torch.nn import functional as F

from fend.attacks import APGD, BIM, FGSM, MIFGSM, PGD, Noise, Objective, Square, attack
from fend.attacks.base import Access, Problem
from fend.errors import Invalid
from fend.threat import Norm, ThreatModel

MARGIN = Objective(loss="margin")
EPSILON = 0.1
GRADIENT_ATTACKS = [
    FGSM(),
    BIM(steps=10),
    PGD(steps=10, early_stop=False),
    PGD(steps=3, restarts=2),
    APGD(steps=10),
    APGD(steps=10, targets=2),
    MIFGSM(steps=10),
]


@pytest.fixture
def linear() -> Callable[[Tensor], Tensor]:
    weights = torch.randn(36, 10, generator=torch.Generator().manual_seed(0))
    return lambda images: images.flatten(1) @ weights


@pytest.fixture
def images() -> Tensor:
    return torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels(linear, images) -> Tensor:
    return linear(images).argmax(1)


class Band(nn.Module):
    """Class 1 only while the mean lies in a narrow band, which the second step leaves."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([torch.zeros_like(mean), 0.02 - (mean - 0.601).abs()], dim=1)


class Ask(BaseModel, frozen=True):
    """Asks about the images moved by each of `moves`, and then returns the clean ones."""

    access: ClassVar[Access] = "decisions"
    minimal: ClassVar[bool] = False
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    name: str = "ask"
    objective: Objective = Objective()
    moves: tuple[float, ...]

    def perturb(self, problem: Problem) -> Tensor:
        rows = torch.arange(len(problem.images))
        for move in self.moves:
            problem.victim.logits(problem.images + move, rows)
        return problem.images


def test_a_find_that_the_attack_loses_is_seen() -> None:
    """The silent success of Pintor et al.: foolbox and ART return the last iterate."""
    images, labels = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    threat = ThreatModel(epsilon=0.5)
    keeps = PGD(steps=2, step_size=0.1, random_start=False, early_stop=False)
    loses = keeps.model_copy(update={"keep": "last"})
    lost = attack(loses, Band(), images, labels, threat)
    assert lost.fooled.tolist() == [False, True]
    assert lost.seen_fooled.tolist() == [True, True]
    kept = attack(keeps, Band(), images, labels, threat)
    assert kept.fooled.tolist() == kept.seen_fooled.tolist() == [True, True]


@pytest.mark.parametrize(
    ("norm", "epsilon", "moves", "seen"),
    [
        ("linf", 0.2, (0.101,), True),
        ("linf", 0.05, (0.101,), False),  # a find outside the ball is none
        ("linf", 0.101, (0.101,), True),  # on its surface, but for rounding
        ("l2", 0.2, (0.101,), False),  # of length 0.202 over four pixels
        ("l2", 0.21, (0.0, 0.101, -0.2), True),
        ("linf", 0.2, (0.3, 0.0, -0.1), False),
    ],
)
def test_only_finds_within_the_threat_model_count(norm, epsilon, moves, seen) -> None:
    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    result = attack(Ask(moves=moves), Band(), images, labels, threat)
    assert result.seen_fooled.tolist() == [seen]
    assert not bool(result.fooled)


def test_finds_outside_the_box_do_not_count() -> None:
    def bright(images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([torch.ones_like(mean), mean], dim=1)

    images, labels = torch.full((1, 1, 2, 2), 0.95), torch.tensor([0])
    result = attack(Ask(moves=(0.2,)), bright, images, labels, ThreatModel(epsilon=0.5))
    assert not bool(result.seen_fooled)


def test_finds_are_booked_on_the_right_image(digit_classifier, digit_batch) -> None:
    """Rows shift as broken images leave the batch."""
    pixels, labels = (part[:40] for part in digit_batch)
    for attacker in (PGD(steps=5), APGD(steps=5, targets=2), MIFGSM(), Square(queries=30)):
        result = attack(attacker, digit_classifier, pixels, labels, ThreatModel(epsilon=EPSILON))
        assert torch.equal(result.seen_fooled, result.fooled)
        assert 0 < int(result.fooled.sum()) < len(result.fooled)


def test_an_image_that_was_wrong_all_along_is_no_find(linear, images, labels) -> None:
    wrong = (labels + 1) % 10
    away = FGSM(objective=Objective(goal="targeted", label_source="least_likely"))
    result = attack(away, linear, images, wrong, ThreatModel(epsilon=0.5))
    assert torch.equal(result.seen_fooled, result.fooled)


@pytest.mark.parametrize("attacker", GRADIENT_ATTACKS, ids=repr)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "hide",
    [
        lambda linear, images: linear(images.detach()),
        lambda linear, images: torch.no_grad()(linear)(images),
        lambda linear, images: torch.inference_mode()(linear)(images),
        lambda linear, images: linear((images * 255).round() / 255),
        lambda linear, images: linear(images.detach()) + images.sum() * 0,
        lambda linear, images: linear((images + 2).clamp(0, 2)) + linear(images.detach()),
        lambda linear, images: linear(images.detach()) * torch.ones(1, requires_grad=True),
    ],
    ids=["detach", "no-grad", "inference", "rounded", "times-zero", "clamped", "other-leaf"],
)
def test_a_model_that_hides_its_gradient_is_flagged(hide, norm, attacker, linear, images, labels):
    def model(batch: Tensor) -> Tensor:
        return hide(linear, batch)

    true_labels = model(images).argmax(1)
    result = attack(attacker, model, images, true_labels, ThreatModel(norm=norm, epsilon=1e-4))
    assert bool(result.zero_gradient.all())
    assert not bool(result.broken_gradient.any())
    open_ = attack(attacker, linear, images, labels, ThreatModel(norm=norm, epsilon=1e-4))
    assert not bool(open_.zero_gradient.any())


def test_a_gradient_that_vanishes_on_some_images_is_flagged_there(linear, images) -> None:
    """With cross-entropy, auto-attack does not look for this."""
    hidden = torch.arange(12) % 3 == 0

    def model(batch: Tensor) -> Tensor:
        marked = (batch.detach()[:, 0, 0, 0] < 0.05)[:, None]
        return torch.where(marked, linear(batch.detach()), linear(batch))

    marked = images.clone()
    marked[:, 0, 0, 0] = torch.where(hidden, 0.0, 0.5)
    true_labels = linear(marked).argmax(1)
    threat = ThreatModel(epsilon=0.01)
    for attacker in GRADIENT_ATTACKS:
        result = attack(attacker, model, marked, true_labels, threat)
        assert torch.equal(result.zero_gradient, hidden)


def test_confidence_that_rounds_the_gradient_away_is_flagged(linear, images, labels) -> None:
    def confident(batch: Tensor) -> Tensor:
        return 1e4 * linear(batch)

    threat = ThreatModel(epsilon=1e-4)
    assert bool(attack(PGD(steps=10), confident, images, labels, threat).zero_gradient.any())
    by_margin = attack(PGD(steps=10, objective=MARGIN), confident, images, labels, threat)
    assert not bool(by_margin.zero_gradient.any())


@pytest.mark.parametrize("attacker", [Noise(), Square(queries=3), FGSM()], ids=repr)
def test_no_gradient_taken_is_no_zero_gradient(attacker, linear, images, labels) -> None:
    if isinstance(attacker, FGSM):  # one image never gets a gradient
        attacker, labels = BIM(), (labels + 1) % 10
    result = attack(attacker, linear, images, labels, ThreatModel(epsilon=0.01))
    assert result.backward_passes == 0
    assert not bool(result.zero_gradient.any())


class BrokenAt(torch.autograd.Function):
    """The images themselves, with `value` as the gradient of some of the pixels."""

    @staticmethod
    def forward(context, images: Tensor, where: Tensor, value: float) -> Tensor:
        context.where, context.value = where, value
        return images.clone()

    @staticmethod
    def backward(context, gradient: Tensor):
        return torch.where(context.where, context.value, gradient), None, None


@pytest.mark.parametrize("attacker", GRADIENT_ATTACKS, ids=repr)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_broken_gradient_is_flagged_and_the_attack_goes_on(norm, value, attacker, linear, images):
    """A NaN gradient would fail the audit, or make a sign() of NaN: an attack that never moves."""

    def model(batch: Tensor) -> Tensor:
        where = torch.zeros_like(batch, dtype=torch.bool)
        where[:, :, :2] = (batch.detach()[:, :, -1:, -1:] > 0.9).expand(-1, -1, 2, 6)
        return linear(BrokenAt.apply(batch, where, value))

    broken = torch.arange(12) % 4 == 1
    marked = images.clone()
    marked[:, :, -1, -1] = torch.where(broken, 1.0, 0.5)[:, None]
    labels, threat = linear(marked).argmax(1), ThreatModel(norm=norm, epsilon=0.05)
    result = attack(attacker, model, marked, labels, threat)
    assert torch.equal(result.broken_gradient, broken)
    assert not bool(result.zero_gradient.any())
    assert float(result.distance.min()) > 0.01
    clean_result = attack(attacker, linear, marked, labels, threat)
    assert torch.equal(result.fooled[~broken], clean_result.fooled[~broken])


def test_a_huge_gradient_is_not_a_broken_one(images) -> None:
    """Its sum over the batch is infinite, but no part of it is."""

    def huge(batch: Tensor) -> Tensor:
        score = 1e37 * batch.flatten(1).sum(1)
        return torch.stack([torch.zeros_like(score), score - 3e38], dim=1)

    labels = torch.zeros(len(images), dtype=torch.long)
    result = attack(FGSM(objective=MARGIN), huge, images, labels, ThreatModel(epsilon=0.01))
    assert not bool(result.broken_gradient.any())
    assert torch.equal(result.adversarial, (images + 0.01).clamp(max=1))


@pytest.mark.parametrize("attacker", [*GRADIENT_ATTACKS, Square(queries=20), Noise()], ids=repr)
def test_a_model_that_answers_nan_counts_as_fooled(attacker, images) -> None:
    def broken(batch: Tensor) -> Tensor:
        return torch.full((len(batch), 4), float("nan")) + batch.mean()

    labels = torch.zeros(len(images), dtype=torch.long)
    result = attack(attacker, broken, images, labels, ThreatModel(epsilon=0.1))
    assert bool(result.fooled.all())
    assert bool(result.seen_fooled.all())


@pytest.mark.parametrize("attacker", [PGD(steps=10), APGD(steps=10), Square(queries=40)], ids=repr)
def test_nan_that_an_attack_finds_is_kept(attacker, linear, images) -> None:
    """NaN loses every comparison of values, and argmax takes it for the best of all logits."""
    grey = images.clone()
    grey[:, 0, 0, 0] = 0.5

    def fragile(batch: Tensor) -> Tensor:
        logits = linear(batch)
        moved = (batch[:, 0, 0, 0] - 0.5).abs() > 1e-3
        answer = F.one_hot(logits.argmax(1), 10).bool()
        return torch.where(moved[:, None] & answer, torch.nan, logits)

    labels = linear(grey).argmax(1)
    result = attack(attacker, fragile, grey, labels, ThreatModel(epsilon=0.01))
    assert bool(result.fooled.all())
    assert result.forward_passes < 8 * len(images), "the search went on"


def test_nan_is_not_the_target(images) -> None:
    def broken(batch: Tensor) -> Tensor:
        return torch.full((len(batch), 3), float("nan"))

    target = Objective(goal="targeted", label_source="random")
    labels = torch.zeros(len(images), dtype=torch.long)
    result = attack(PGD(steps=2, objective=target), broken, images, labels, ThreatModel(epsilon=1))
    assert not bool(result.reached.any())


def test_an_attack_that_returns_nan_is_refused(linear, images, labels) -> None:
    class Lost(Ask):
        def perturb(self, problem: Problem) -> Tensor:
            return problem.images * float("nan")

    with pytest.raises(Invalid, match="ask returned NaN", check=code("attack_invalid")):
        attack(Lost(moves=()), linear, images, labels, ThreatModel(epsilon=0.1))


def climb(images: Tensor) -> Tensor:
    """Never fooled; the margin rises with the mean, without an end."""
    mean = images.flatten(1).mean(1)
    return torch.stack([torch.full_like(mean, 10.0), mean], dim=1)


@pytest.mark.parametrize("attacker", [BIM, PGD, MIFGSM])
def test_a_walk_that_has_not_arrived_gains_to_its_end(attacker) -> None:
    """Too few steps, or too short ones, leave an attack unfinished (Pintor et al.)."""
    images, labels = torch.full((3, 1, 4, 4), 0.3), torch.zeros(3, dtype=torch.long)
    threat = ThreatModel(epsilon=0.2)
    options = {"steps": 20, "objective": MARGIN}
    if attacker is PGD:
        options["random_start"] = False
    short = attack(attacker(**options, step_size=0.001), climb, images, labels, threat)
    assert short.late_gain.tolist() == pytest.approx([0.1] * 3, abs=1e-3)
    enough = attack(attacker(**options, step_size=0.05), climb, images, labels, threat)
    assert enough.late_gain.tolist() == [0.0] * 3


def test_late_gain_is_the_share_of_all_runs() -> None:
    images, labels = torch.full((3, 1, 4, 4), 0.3), torch.zeros(3, dtype=torch.long)
    threat = ThreatModel(epsilon=0.2)
    for attacker in (
        PGD(steps=50, objective=MARGIN, restarts=3),
        APGD(steps=50, objective=MARGIN, restarts=2),
        APGD(steps=50, targets=1, objective=MARGIN, restarts=2),
    ):
        result = attack(attacker, climb, images, labels, threat)
        assert bool(((result.late_gain >= 0) & (result.late_gain < 0.01)).all())


def test_there_is_no_late_gain_without_an_end(linear, images, labels) -> None:
    threat = ThreatModel(epsilon=0.5)
    early = attack(PGD(steps=40), linear, images, labels, threat)
    assert bool(early.fooled.all())
    assert bool(early.late_gain.isnan().all())
    for attacker in (FGSM(), PGD(steps=9), Noise(), Square(queries=50)):
        result = attack(attacker, climb, images, labels * 0, threat)
        assert bool(result.late_gain.isnan().all())


def test_a_flat_objective_gains_nothing_late(images, labels) -> None:
    def flat(batch: Tensor) -> Tensor:
        return F.one_hot(labels, 10).float() + 0 * batch.sum()

    result = attack(PGD(steps=20), flat, images, labels, ThreatModel(epsilon=0.1))
    assert result.late_gain.tolist() == [0.0] * 12


def test_diagnostics_do_not_depend_on_the_batch(digit_classifier, digit_batch) -> None:
    pixels, labels = (part[:20] for part in digit_batch)
    threat, attacker = ThreatModel(epsilon=0.05), PGD(steps=20)
    whole = attack(attacker, digit_classifier, pixels, labels, threat)
    ids = [13, 2, 7, 19]
    part = attack(attacker, digit_classifier, pixels[ids], labels[ids], threat, sample_ids=ids)
    assert torch.equal(part.seen_fooled, whole.seen_fooled[ids])
    assert torch.allclose(part.late_gain, whole.late_gain[ids], atol=1e-3, equal_nan=True)
    assert not bool(whole.late_gain.isnan().all())
