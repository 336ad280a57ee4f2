"""What all attacks for the smallest perturbation promise: FAB, DeepFool, C&W and HopSkipJump."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from refusals import code
from torch import Tensor, nn

from fend.attacks import CWL2, FAB, AttackSpec, DeepFool, HopSkipJump, attack
from fend.errors import Invalid
from fend.threat import ThreatModel

CW = CWL2(searches=3, steps=30, step_size=0.05, initial_c=0.3)
HSJ = HopSkipJump(queries=250, probes=20)
SHORT = [
    (FAB(steps=5, targets=2, restarts=2), "linf"),
    (FAB(steps=5, targets=2, restarts=2), "l2"),
    (FAB(steps=5, targets=None), "linf"),
    (FAB(steps=5, targets=None), "l2"),
    (DeepFool(), "linf"),
    (DeepFool(candidates=2), "l2"),
    (CW, "l2"),
    (HSJ, "linf"),
    (HSJ, "l2"),
]
each_attack = pytest.mark.parametrize(
    ("attacker", "norm"), SHORT, ids=[f"{a.name}-{norm}-{i}" for i, (a, norm) in enumerate(SHORT)]
)
LARGE = {"linf": 0.3, "l2": 5.0}


class Linear(nn.Module):
    """No bias at grey, so that noise gets every answer."""

    def __init__(self, pixels: int, classes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("weights", torch.randn(pixels, classes, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return (images.flatten(1) - 0.5) @ self.weights


def linear(shape: tuple[int, ...], classes: int = 4) -> tuple[Tensor, nn.Module]:
    """Images, and a linear model whose answers on them differ."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, *shape, generator=generator)
    return images, Linear(images[0].numel(), classes, generator)


@each_attack
@pytest.mark.parametrize("epsilon", [0.0, 0.03, 1.0])
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 4, 9)])
def test_a_perturbation_stays_in_the_ball_and_the_box(attacker, norm, epsilon, shape) -> None:
    images, model = linear(shape)
    labels = model(images).argmax(1)
    threat = ThreatModel(norm=norm, epsilon=epsilon)
    for chosen in (attacker, early_stop_off(attacker)):
        result = attack(chosen, model, images, labels, threat)
        assert float(result.distance.max()) <= epsilon + 1e-6
        assert float(result.adversarial.min()) >= 0
        assert float(result.adversarial.max()) <= 1
        if epsilon == 0:
            assert torch.equal(result.adversarial, images)
        # What was found on the way is what is returned.
        assert torch.equal(result.seen_fooled, result.fooled)


def early_stop_off(attacker):
    """The same attack to its end, where it has the choice."""
    if "early_stop" not in type(attacker).model_fields:
        return attacker
    return attacker.model_copy(update={"early_stop": False})


@each_attack
def test_leaving_early_costs_no_success(attacker, norm, digit_classifier, digit_batch) -> None:
    """Nor does going on, and it finds smaller perturbations."""
    pixels, labels = (part[:12] for part in digit_batch)
    threat = ThreatModel(norm=norm, epsilon=LARGE[norm])
    early = attack(attacker, digit_classifier, pixels, labels, threat)
    full = attack(early_stop_off(attacker), digit_classifier, pixels, labels, threat)
    assert torch.equal(early.fooled, full.fooled)
    assert int(early.fooled.sum()) >= 4
    assert early.forward_passes <= full.forward_passes
    assert float(full.distance.sum()) <= float(early.distance.sum())


@each_attack
def test_an_image_that_is_wrong_already_is_left_alone(
    attacker, norm, digit_classifier, digit_batch
):
    """auto-attack #81: a crash when a whole batch is wrong at the start."""
    pixels, labels = (part[:8] for part in digit_batch)
    threat = ThreatModel(norm=norm, epsilon=LARGE[norm])
    for wrong in (torch.arange(8) % 2 == 0, torch.ones(8, dtype=torch.bool)):
        given = torch.where(wrong, (labels + 1) % 10, labels)
        result = attack(early_stop_off(attacker), digit_classifier, pixels, given, threat)
        assert torch.equal(result.adversarial[wrong], pixels[wrong])
        assert bool(result.fooled[wrong].all())
        assert bool((result.distance[~wrong] > 0).all())
    assert result.forward_passes == 2 * 8  # the clean answer and the judge
    assert result.backward_passes == 0


@each_attack
def test_an_answer_does_not_depend_on_the_batch(attacker, norm, digit_classifier, digit_batch):
    """Carlini's code gives up on a batch as a whole; foolbox draws for the whole batch at once."""

    def one_by_one(batch: Tensor) -> Tensor:
        # A convolution rounds differently in another batch, and a rare near-tie hangs on that.
        return torch.cat([digit_classifier(image[None]) for image in batch])

    pixels, labels = (part[:5] for part in digit_batch)
    threat = ThreatModel(norm=norm, epsilon=LARGE[norm] / 4)
    together = attack(attacker, one_by_one, pixels, labels, threat, seed=4)
    ids = [4, 1]
    part = attack(attacker, one_by_one, pixels[ids], labels[ids], threat, seed=4, sample_ids=ids)
    assert torch.equal(part.adversarial, together.adversarial[ids])


@each_attack
def test_two_classes_are_enough(attacker, norm) -> None:
    images, model = linear((1, 3, 5), classes=2)
    labels = model(images).argmax(1)
    result = attack(attacker, model, images, labels, ThreatModel(norm=norm, epsilon=10))
    assert bool(result.fooled.all())


@each_attack
def test_a_model_without_a_gradient_is_no_crash(attacker, norm) -> None:
    """Constant, or cut off from its input: nothing is found, except where labels are enough."""
    images, model = linear((1, 3, 5))
    labels = model(images).argmax(1)

    def cut(batch: Tensor) -> Tensor:
        return model(batch).detach()

    threat = ThreatModel(norm=norm, epsilon=10)
    result = attack(attacker, cut, images, labels, threat)
    # Random restarts may stumble over the boundary all the same.
    if attacker.access == "gradient" and getattr(attacker, "restarts", 1) == 1:
        assert torch.equal(result.zero_gradient, torch.ones(6, dtype=torch.bool))
        assert float(result.distance.max()) < 1e-5
    constant = attack(attacker, lambda batch: 0 * model(batch) + torch.eye(4)[0],
                      images, 0 * labels, threat)  # fmt: skip
    assert not constant.fooled.any()
    assert torch.equal(constant.adversarial, images)


@each_attack
def test_a_model_that_breaks_is_a_success(attacker, norm) -> None:
    """NaN beyond some brightness is an answer that nobody wants, and stops no attack."""
    images, model = linear((1, 3, 5))
    images = 0.3 + 0.2 * images

    def breaks(batch: Tensor) -> Tensor:
        bright = batch.flatten(1).amax(1, keepdim=True) > 0.55
        return torch.where(bright, torch.nan, 3 + model(batch))

    labels = breaks(images).argmax(1)
    result = attack(attacker, breaks, images, labels, ThreatModel(norm=norm, epsilon=10))
    assert bool(result.fooled.all())


@pytest.mark.parametrize("name", ["fab", "deepfool", "cw_l2", "hop_skip_jump"])
def test_a_loss_that_would_play_no_part_is_refused(name) -> None:
    adapter = TypeAdapter(AttackSpec)
    assert adapter.validate_python({"name": name}).name == name
    with pytest.raises(ValidationError, match="use loss 'margin'"):
        adapter.validate_python({"name": name, "objective": {"loss": "dlr"}})
    if name != "cw_l2":
        target = {"loss": "margin", "goal": "targeted", "label_source": "random"}
        with pytest.raises(ValidationError, match="use goal 'untargeted'"):
            adapter.validate_python({"name": name, "objective": target})


def test_cw_is_refused_for_linf() -> None:
    images, model = linear((1, 3, 5))
    labels = model(images).argmax(1)
    with pytest.raises(Invalid, match="cw_l2 is made for l2", check=code("attack_invalid")):
        attack(CW, model, images, labels, ThreatModel(epsilon=0.1))
