"""The loss `feature_distance`: from beside the image, at no label, against models with features."""

from dataclasses import dataclass

import pytest
import torch
from pydantic import ValidationError
from refusals import code
from torch import Tensor, nn

from fend.attacks import APGD, BIM, FGSM, MIFGSM, PGD, Noise, Objective, Square, attack
from fend.errors import Invalid
from fend.threat import ThreatModel

FEATURES = Objective(loss="feature_distance")
ATTACKS = [
    FGSM(objective=FEATURES),
    BIM(objective=FEATURES),
    BIM(objective=FEATURES, early_stop=False),
    PGD(steps=10, objective=FEATURES),
    PGD(steps=10, objective=FEATURES, random_start=False, keep="last"),
    APGD(steps=10, objective=FEATURES),
    APGD(steps=10, objective=FEATURES, restarts=2, early_stop=False),
    MIFGSM(objective=FEATURES),
]


@dataclass(frozen=True)
class Exposed:
    """A network that shows the input of its last layer."""

    network: nn.Sequential

    def __call__(self, images: Tensor) -> Tensor:
        return self.network(images)

    def features(self, images: Tensor) -> Tensor:
        return self.network[:-1](images)


@pytest.fixture(scope="module")
def digits(digit_classifier) -> Exposed:
    return Exposed(nn.Sequential(digit_classifier.features, *digit_classifier.head))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attacker", ATTACKS, ids=repr)
def test_features_are_driven_away(attacker, norm, digits, digit_batch) -> None:
    pixels, labels = (part[:30] for part in digit_batch)
    threat = ThreatModel(norm=norm, epsilon=0.15 if norm == "linf" else 2.5)
    result = attack(attacker, digits, pixels, labels, threat)
    control = attack(Noise(draws=10), digits, pixels, labels, threat)

    def moved(images: Tensor) -> float:
        return float((digits.features(images) - digits.features(pixels)).norm(dim=1).mean())

    assert moved(result.adversarial) > 1.5 * moved(control.adversarial)
    assert int(result.fooled.sum()) > 2 * int(control.fooled.sum())
    assert not bool(result.zero_gradient.any())
    assert bool((result.distance <= threat.epsilon + 1e-6).all())


def test_the_zero_gradient_at_the_clean_image_is_not_masking(digits, digit_batch) -> None:
    pixels, labels = (part[:5] for part in digit_batch)
    for attacker in ATTACKS:
        result = attack(attacker, digits, pixels, labels, ThreatModel(epsilon=0))
        assert not bool(result.zero_gradient.any())
        assert torch.equal(result.adversarial, pixels)


def test_features_without_a_gradient_are_masking(digits, digit_batch) -> None:
    @dataclass(frozen=True)
    class Cut(Exposed):
        def features(self, images: Tensor) -> Tensor:
            return super().features(images).detach()

    pixels, labels = (part[:5] for part in digit_batch)
    for attacker in ATTACKS:
        result = attack(attacker, Cut(digits.network), pixels, labels, ThreatModel(epsilon=1e-4))
        assert bool(result.zero_gradient.all())


def test_the_label_decides_nothing_but_success(digits, digit_batch) -> None:
    pixels, labels = (part[:30] for part in digit_batch)
    threat, attacker = ThreatModel(epsilon=0.1), PGD(steps=5, objective=FEATURES, early_stop=False)
    right = attack(attacker, digits, pixels, labels, threat)
    predicted = attacker.model_copy(
        update={"objective": Objective(loss="feature_distance", label_source="predicted")}
    )
    again = attack(predicted, digits, pixels, (labels + 1) % 10, threat)
    assert torch.equal(right.adversarial, again.adversarial)
    assert 0 < int(right.fooled.sum()) < 30
    assert int(again.fooled.sum()) > int(right.fooled.sum())


def test_an_answer_does_not_depend_on_the_batch(digits, digit_batch) -> None:
    pixels, labels = (part[:10] for part in digit_batch)
    threat, ids = ThreatModel(epsilon=0.1), [7, 2, 9]
    for attacker in (BIM(objective=FEATURES), PGD(steps=5, objective=FEATURES)):
        whole = attack(attacker, digits, pixels, labels, threat)
        part = attack(attacker, digits, pixels[ids], labels[ids], threat, sample_ids=ids)
        assert torch.allclose(part.adversarial, whole.adversarial[ids], atol=1e-4)


def test_a_model_without_features_is_refused_in_words(digits, digit_batch) -> None:
    message = r"objective\.loss: 'feature_distance' needs.*`features`, and Sequential has none"
    for attacker in ATTACKS:
        with pytest.raises(Invalid, match=message, check=code("attack_invalid")):
            attack(attacker, digits.network, *digit_batch, ThreatModel(epsilon=0.1))


def test_what_features_cannot_mean_is_refused() -> None:
    with pytest.raises(ValidationError, match="to no target"):
        Objective(loss="feature_distance", goal="targeted", label_source="random")
    with pytest.raises(ValidationError, match="scores, not features"):
        Square(objective=FEATURES)
