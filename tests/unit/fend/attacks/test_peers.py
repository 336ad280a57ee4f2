"""Bugs that attack libraries have shipped, by issue number, none of which must come back here."""

from collections.abc import Callable

import pytest
import torch
from refusals import code
from torch import Tensor, nn

from fend.attacks import APGD, BIM, FGSM, MIFGSM, PGD, Noise, Objective, Square, attack
from fend.attacks.base import Problem
from fend.errors import Invalid
from fend.models.architectures.unet import ResidualUNet
from fend.pipeline import Defence, frozen
from fend.threat import ThreatModel

MARGIN = Objective(loss="margin")
ITERATED = [
    PGD(steps=6, restarts=2, step_size=0.15, early_stop=False),
    BIM(steps=6, step_size=0.15, early_stop=False),
    APGD(steps=12, restarts=2, early_stop=False),
    MIFGSM(steps=6, step_size=0.15, early_stop=False),
    Noise(draws=5, early_stop=False),
]


@pytest.fixture
def linear() -> Callable[[Tensor], Tensor]:
    """Ten classes, each a plain sum of 36 weighted pixels."""
    weights = torch.randn(36, 10, generator=torch.Generator().manual_seed(0))
    return lambda images: images.flatten(1) @ weights


@pytest.fixture
def images() -> Tensor:
    """Grey ones, and ones with corners of the box: pixels of exactly 0 and 1."""
    uniform = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    return torch.cat([uniform, uniform.round()])


@pytest.mark.parametrize(
    ("attacker", "norm"),
    [
        *((attacker, norm) for attacker in ITERATED for norm in ("linf", "l2")),
        (Square(queries=20, early_stop=False), "linf"),
    ],
    ids=repr,
)
def test_every_image_that_is_asked_about_is_allowed(attacker, norm, linear, images) -> None:
    """ART #73 (a full step after a random start), #85 (projected around the iterate before),
    #148 (not clipped after projection), cleverhans #823 (a random start outside the box)."""
    asked: list[Tensor] = []

    def watched(batch: Tensor) -> Tensor:
        asked.append(batch.detach().clone())
        return linear(batch)

    threat = ThreatModel(norm=norm, epsilon=0.2)
    attack(attacker, watched, images, linear(images).argmax(1), threat)
    assert len(asked) > 5
    for batch in asked:  # no image leaves the batch early
        assert float(threat.measure(images, batch).max()) <= 0.2 + 1e-6
        assert float(batch.min()) >= 0
        assert float(batch.max()) <= 1


@pytest.mark.parametrize("attacker", [FGSM(), *ITERATED[:-1]], ids=repr)
def test_pixels_at_the_end_of_the_box_move_inwards(attacker) -> None:
    """foolbox #704: a clamp inside the graph leaves pixels at or beyond its ends no gradient."""
    weights = torch.randn(36, generator=torch.Generator().manual_seed(3))

    def model(batch: Tensor) -> Tensor:
        score = batch.flatten(1) @ weights - 100  # never fooled
        return torch.stack([torch.zeros_like(score), score], dim=1)

    images = torch.stack([torch.zeros(1, 6, 6), torch.ones(1, 6, 6)])
    labels = torch.zeros(2, dtype=torch.long)
    result = attack(
        attacker.model_copy(update={"objective": MARGIN}),
        model, images, labels, ThreatModel(epsilon=0.2),
    )  # fmt: skip
    up = (weights > 0).view(1, 6, 6)
    assert torch.allclose(result.adversarial[0], torch.where(up, 0.2, 0.0), atol=1e-6)
    assert torch.allclose(result.adversarial[1], torch.where(up, 1.0, 0.8), atol=1e-6)


@pytest.mark.parametrize(
    "attacker",
    [FGSM(), PGD(steps=3, restarts=2), *ITERATED[1:], APGD(targets=3), Square(queries=5)],
    ids=repr,
)
def test_a_batch_that_is_wrong_from_the_start(attacker, linear, images) -> None:
    """auto-attack #81: a crash where every image is fooled at initialisation."""
    wrong = (linear(images).argmax(1) + 1) % 10
    result = attack(attacker, linear, images, wrong, ThreatModel(epsilon=1e-4))
    assert bool(result.fooled.all())
    if getattr(attacker, "early_stop", False):
        assert torch.equal(result.adversarial, images)
        assert result.backward_passes == 0
    empty = attack(attacker, linear, images[:0], wrong[:0], ThreatModel(epsilon=0.1))
    assert empty.fooled.shape == (0,)


@pytest.mark.parametrize("attacker", [PGD(steps=3), APGD(steps=3), Square(queries=9)], ids=repr)
def test_a_batch_that_falls_at_the_random_start(attacker) -> None:
    """auto-attack #81, one step later: all fooled by the first images that are asked about."""
    images, labels = torch.full((5, 1, 4, 7), 0.5), torch.zeros(5, dtype=torch.long)

    def only_clean(batch: Tensor) -> Tensor:
        away = (batch - 0.5).flatten(1).square().sum(1)
        return torch.stack([torch.zeros_like(away), away - 1e-9], dim=1)

    result = attack(attacker, only_clean, images, labels, ThreatModel(epsilon=0.1))
    assert bool(result.fooled.all())
    # The clean images, the start and the judge.
    assert result.forward_passes == 3 * 5


def test_a_later_restart_does_not_overwrite_what_an_earlier_one_found(linear, images) -> None:
    """MadryLab/robustness: `~mask` on bytes is true everywhere, so that the last restart wins;
    ART #714: the best restart on average, for all images."""
    labels, threat = linear(images).argmax(1), ThreatModel(epsilon=0.2)
    options = {"steps": 1, "step_size": 1e-4, "objective": MARGIN}
    one, eight = (
        attack(PGD(**options, restarts=n), linear, images, labels, threat, seed=1) for n in (1, 8)
    )
    found = one.fooled
    assert 0 < int(found.sum()) < int(eight.fooled.sum())
    assert torch.equal(eight.adversarial[found], one.adversarial[found])


class Wave(nn.Module):
    """A smooth denoiser whose gradient differs from point to point."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(1, 1, 3, padding=1)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.mix.weight, std=1.0, generator=generator)

    def forward(self, images: Tensor) -> Tensor:
        return images + torch.sin(3 * self.mix(images))


def test_the_gradient_through_stacked_denoisers_is_that_of_finite_differences() -> None:
    """ART #485: with chained defences, each stage's backward pass saw the original input."""
    torch.manual_seed(0)
    network = ResidualUNet(width=4)
    for weights in network.parameters():
        nn.init.normal_(weights, std=0.2)
    stack = nn.Sequential(Wave(1), network, Wave(2))
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Softplus(), nn.Linear(10, 5))
    defence = frozen(Defence(stack, classifier)).double()
    images = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    taken: list[Tensor] = []

    class Capture(PGD):
        def perturb(self, problem: Problem) -> Tensor:
            rows = torch.arange(len(problem.images))
            taken.append(problem.gradient(problem.images, rows)[0])
            return problem.images

    labels = torch.tensor([0, 3, 4])
    attack(Capture(objective=MARGIN), defence, images, labels, ThreatModel(epsilon=0.1))
    width = 1e-6
    for row, pixel in [(0, 0), (0, 27), (1, 5), (1, 63), (2, 36)]:
        nudge = torch.zeros(3, 64, dtype=torch.float64)
        nudge[row, pixel] = width
        nudge = nudge.view_as(images)
        above, below = (
            float(MARGIN.values(defence(images + way * nudge), labels).sum()) for way in (1, -1)
        )
        slope = (above - below) / (2 * width)
        assert float(taken[0][row].flatten()[pixel]) == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    "attacker", [FGSM(), PGD(steps=4), BIM(), APGD(steps=8), MIFGSM()], ids=repr
)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_gradient_of_any_size_counts_alike(norm, attacker, images) -> None:
    """Squares of a saturated loss's gradient round to zero, and a norm of zero moves nothing."""
    weights = torch.randn(36, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(len(images), dtype=torch.long)
    results = []
    for scale in (1.0, 1e-30):

        def model(batch: Tensor, scale: float = scale) -> Tensor:
            score = scale * (batch.flatten(1) @ weights)
            return torch.stack([torch.zeros_like(score), score - scale * 100], dim=1)

        margin = attacker.model_copy(update={"objective": MARGIN})
        threat = ThreatModel(norm=norm, epsilon=0.5)
        results.append(attack(margin, model, images, labels, threat))
    assert torch.allclose(results[0].adversarial, results[1].adversarial, atol=1e-4)
    assert float(results[1].distance.min()) > 0.2


@pytest.mark.parametrize(
    "wrong",
    [
        torch.full((2, 1, 6, 6), 1.01),
        torch.full((2, 1, 6, 6), -1e-3),
        torch.full((2, 1, 6, 6), float("nan")),
        torch.full((2, 36), 0.5),
        torch.full((3, 1, 6, 6), 0.5),
    ],
    ids=["above", "below", "nan", "flat", "labels"],
)
def test_inputs_outside_the_box_are_refused(wrong, linear) -> None:
    """foolbox #602: no check, and so attacks that clip the images before they perturb them."""
    with pytest.raises(Invalid, match=r"\[0, 1\]|N,C,H,W|labels", check=code("attack_invalid")):
        attack(FGSM(), linear, wrong, torch.zeros(2, dtype=torch.long), ThreatModel(epsilon=0.1))
