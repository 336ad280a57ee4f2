"""Attacks against models whose best answer is known, and against the bugs of our peers."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from fend.attacks import APGD, BIM, FGSM, MIFGSM, PGD, AttackSpec, Noise, Objective, attack
from fend.pipeline import frozen
from fend.threat import ThreatModel


class Linear(nn.Module):
    """Two classes, logits (0, w.x + b): the optimal L-inf attack is epsilon * sign(w)."""

    def __init__(self, pixels: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("w", torch.randn(pixels, generator=generator))
        self.register_buffer("b", -0.5 * self.w.sum())  # grey images lie on the border

    def forward(self, images: Tensor) -> Tensor:
        score = images.flatten(1) @ self.w + self.b
        return torch.stack([torch.zeros_like(score), score], dim=1)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return frozen(
        nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))
    )


@pytest.fixture
def images() -> Tensor:
    return torch.rand(24, 1, 14, 14, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels(model, images) -> Tensor:
    return model(images).argmax(1)


ATTACKS = [
    FGSM(),
    FGSM(objective=Objective(goal="targeted", label_source="least_likely")),
    PGD(steps=5),
    PGD(steps=5, restarts=3),
    PGD(steps=5, keep="last", random_start=False, early_stop=False),
    BIM(steps=5),
    BIM(steps=5, step_size=0.1, early_stop=False, keep="last"),
    PGD(steps=5, objective=Objective(loss="margin")),
    PGD(steps=5, objective=Objective(goal="targeted", label_source="random")),
    APGD(steps=5, restarts=2),
    APGD(steps=20, early_stop=False, objective=Objective(loss="dlr")),
    APGD(steps=5, targets=3, objective=Objective(loss="dlr")),
    APGD(steps=5, objective=Objective(goal="targeted", label_source="least_likely", loss="dlr")),
    MIFGSM(),
    MIFGSM(steps=3, step_size=0.2, decay=0.5, early_stop=False),
    Noise(draws=3),
]


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("epsilon", [0.0, 0.03, 0.3])
@pytest.mark.parametrize("attacker", ATTACKS, ids=repr)
def test_every_attack_stays_in_its_threat_model(attacker, epsilon, norm, model, images, labels):
    """ART #73, #85, #148; cleverhans #823: a perturbation or an iterate outside what is allowed.
    torchattacks #124: at epsilon 0 the images, and so the accuracy, were not the clean ones."""
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    result = attack(attacker, model, images, labels, threat, seed=1)
    assert float(threat.measure(images, result.adversarial).max()) <= epsilon + 1e-6
    assert float(result.adversarial.min()) >= 0
    assert float(result.adversarial.max()) <= 1
    if epsilon == 0:
        assert torch.equal(result.adversarial, images)
        assert not result.fooled.any()


@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (3, 1, 5, 3), (8, 3, 7, 2)])
@pytest.mark.parametrize(
    "attacker",
    [
        FGSM(),
        PGD(steps=20),
        PGD(steps=20, restarts=2),
        BIM(),
        APGD(steps=20),
        APGD(steps=20, targets=1, objective=Objective(loss="margin")),
        MIFGSM(),
    ],
    ids=repr,
)
def test_a_linear_model_is_attacked_to_its_optimum(attacker, shape) -> None:
    linear = Linear(shape[1] * shape[2] * shape[3])
    # Far from the box's walls, so that the optimum is epsilon * |w|_1 exactly.
    images = 0.4 + 0.2 * torch.rand(shape, generator=torch.Generator().manual_seed(2))
    labels = linear(images).argmax(1)
    result = attack(attacker, linear, images, labels, ThreatModel(epsilon=0.1))
    towards = 1 - 2 * labels  # class 1 wants a lower score, class 0 a higher one
    moved = (linear(result.adversarial)[:, 1] - linear(images)[:, 1]) * towards
    optimum = 0.1 * linear.w.abs().sum()
    reached = moved / optimum
    # Early stop may end before the optimum, but only on images that are broken already.
    assert bool(((reached > 0.99) | result.fooled).all())
    assert float(reached.max()) <= 1.0 + 1e-4


def test_a_linear_model_is_broken_exactly_where_it_can_be() -> None:
    linear = Linear(16)
    images = 0.4 + 0.2 * torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    labels = linear(images).argmax(1)
    epsilon = 0.02
    breakable = linear(images)[:, 1].abs() < epsilon * linear.w.abs().sum()
    assert 10 < int(breakable.sum()) < 190
    result = attack(PGD(steps=30), linear, images, labels, ThreatModel(epsilon=epsilon))
    assert torch.equal(result.fooled, breakable)


@pytest.mark.parametrize(
    "attacker",
    [
        FGSM(),
        PGD(steps=4, restarts=2),
        BIM(steps=4),
        APGD(steps=10, restarts=2),
        APGD(steps=10, targets=2, early_stop=False, objective=Objective(loss="dlr")),
        MIFGSM(steps=4),
        Noise(draws=4),
    ],
    ids=repr,
)
def test_an_answer_does_not_depend_on_the_batch(attacker, model, images, labels) -> None:
    """Most peers draw from the global generator, once for the whole batch."""
    threat = ThreatModel(epsilon=0.05)
    state = torch.manual_seed(1).get_state()
    together = attack(attacker, model, images, labels, threat, seed=9)
    assert torch.equal(torch.get_rng_state(), state)
    for ids in ([3], [20, 4, 11]):
        part = attack(attacker, model, images[ids], labels[ids], threat, seed=9, sample_ids=ids)
        assert torch.equal(part.fooled, together.fooled[ids])
        assert torch.allclose(part.adversarial, together.adversarial[ids], atol=1e-5)


def test_passes_are_counted_and_broken_images_leave_the_batch(model, images, labels) -> None:
    threat = ThreatModel(epsilon=0.3)
    full = attack(PGD(steps=10, early_stop=False), model, images, labels, threat)
    early = attack(PGD(steps=10), model, images, labels, threat)
    assert full.backward_passes == 10 * len(images)
    # The clean answer, ten steps, the last iterate, and the judge.
    assert full.forward_passes == 13 * len(images)
    assert early.backward_passes < full.backward_passes
    assert torch.equal(early.fooled, full.fooled)
    assert bool(early.fooled.all())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_bim_is_pgd_from_the_image_itself(norm, model, images, labels) -> None:
    threat = ThreatModel(norm=norm, epsilon=0.1)
    bim = attack(BIM(steps=7), model, images, labels, threat)
    pgd = PGD(steps=7, step_size=0.1 / 7, random_start=False)
    assert torch.equal(bim.adversarial, attack(pgd, model, images, labels, threat).adversarial)
    assert torch.equal(
        bim.adversarial, attack(BIM(steps=7), model, images, labels, threat, seed=5).adversarial
    )


def test_fgsm_takes_one_gradient(model, images, labels) -> None:
    result = attack(FGSM(), model, images, labels, ThreatModel(epsilon=0.1))
    assert result.backward_passes == len(images)


def test_predicted_labels_push_away_from_the_answer_not_the_truth(model, images, labels) -> None:
    wrong = (labels + 1) % 10
    threat = ThreatModel(epsilon=0.05)
    by_answer = attack(
        FGSM(objective=Objective(label_source="predicted")), model, images, wrong, threat
    )
    by_truth = attack(FGSM(), model, images, labels, threat)
    assert torch.equal(by_answer.adversarial, by_truth.adversarial)
    # Judged against the labels that were given as true.
    assert torch.equal(by_answer.fooled, model(by_answer.adversarial).argmax(1) != wrong)


def test_targeted_attacks_reach_their_target(model, images, labels) -> None:
    attacker = PGD(steps=40, objective=Objective(goal="targeted", label_source="least_likely"))
    result = attack(attacker, model, images, labels, ThreatModel(epsilon=0.5))
    target = model(images).argmin(1)
    answers = model(result.adversarial).argmax(1)
    assert torch.equal(result.reached, answers == target)
    assert float(result.reached.float().mean()) > 0.9


def test_random_targets_are_never_the_true_label() -> None:
    logits = torch.zeros(1000, 10)
    labels = torch.arange(1000) % 10
    targets = Objective(goal="targeted", label_source="random").labels(
        logits, labels, 0, range(1000)
    )
    assert not bool((targets == labels).any())
    assert len(targets.unique()) == 10


def test_a_cancelled_attack_stops_within_a_step(model, images, labels) -> None:
    class Cancelled(Exception):
        pass

    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise Cancelled

    attacker = PGD(steps=1000, early_stop=False)
    with pytest.raises(Cancelled):
        attack(attacker, model, images, labels, ThreatModel(epsilon=0.1), stop=stop)
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "pdg"}, "fgsm"),
        ({"name": "pgd", "steps": 0}, "steps"),
        ({"name": "pgd", "stepsize": 0.1}, "stepsize"),
        ({"name": "pgd", "keep": "last", "restarts": 2}, "restarts"),
        ({"name": "fgsm", "objective": {"label_source": "least_likely"}}, "least_likely"),
        ({"name": "fgsm", "objective": {"goal": "targeted"}}, "targeted"),
        ({"name": "bim", "restarts": 2}, "restarts"),
        ({"name": "fab", "stepsize": 0.1}, "stepsize"),
        ({"name": "deepfool", "epsilon": 0.1}, "epsilon"),
        ({"name": "cw_l2", "objective": {"loss": "dlr"}}, "margin"),
        ({"name": "hop_skip_jump", "gradient": {}}, "gradient"),
        ({"name": "pgd", "gradient": {"samples": 0}}, "samples"),
        ({"name": "square", "gradient": {"samples": 2}}, "gradient"),
    ],
)
def test_a_wrong_spec_names_what_is_wrong(spec, message) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(AttackSpec).validate_python(spec)
