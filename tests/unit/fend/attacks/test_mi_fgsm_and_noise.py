"""MI-FGSM against a peer, and noise as the control that it is."""

import warnings

import pytest
import torch
from torch import Tensor, nn

from fend.attacks import FGSM, MIFGSM, PGD, Noise, Objective, attack
from fend.threat import ThreatModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the peer's own imports warn
    import torchattacks

EPSILON = 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mi_fgsm_fools_with_what_a_peer_fools_with(digit_classifier, digit_batch) -> None:
    pixels, labels = digit_batch
    threat = ThreatModel(epsilon=EPSILON)
    ours = attack(MIFGSM(early_stop=False), digit_classifier, pixels, labels, threat)
    peer = torchattacks.MIFGSM(digit_classifier, eps=EPSILON, alpha=EPSILON / 10, steps=10)
    theirs = peer(pixels, labels)
    fooled = digit_classifier(theirs).argmax(1) != labels
    assert bool((fooled <= ours.fooled).all())
    # We keep the best iterate and they the last, which mostly are one.
    same = (ours.adversarial - theirs).abs().flatten(1).amax(1) < 1e-5
    assert float(same.float().mean()) > 0.8


def test_momentum_crosses_a_flat_spot_where_its_absence_stops() -> None:
    class Gap(nn.Module):
        """The class 1 score rises, is flat for a while, and rises again to victory."""

        def forward(self, images: Tensor) -> Tensor:
            mean = images.mean((1, 2, 3))
            score = mean.clamp(max=0.53) + (mean - 0.57).clamp(min=0)
            return torch.stack([torch.full_like(score, 0.55), score], dim=1)

    images, labels = torch.full((1, 1, 2, 2), 0.5), torch.zeros(1, dtype=torch.long)
    threat = ThreatModel(epsilon=EPSILON)
    objective = Objective(loss="margin")
    for decay, crosses in ((1.0, True), (0.0, False)):
        attacker = MIFGSM(decay=decay, objective=objective)
        assert bool(attack(attacker, Gap(), images, labels, threat).fooled[0]) is crosses


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("linf", 0.2), ("l2", 1.5)], ids=str)
def test_noise_is_weaker_than_any_attack(norm, epsilon, digit_classifier, digit_batch) -> None:
    threat = ThreatModel(norm=norm, epsilon=epsilon)

    def fooled(attacker: FGSM | MIFGSM | PGD | Noise) -> int:
        return int(attack(attacker, digit_classifier, *digit_batch, threat).fooled.sum())

    control = fooled(Noise(draws=10))
    assert control * 2 < fooled(FGSM())
    assert control * 2 < fooled(MIFGSM())


def test_more_noise_never_fools_less(digit_classifier, digit_batch) -> None:
    threat = ThreatModel(epsilon=0.4)
    few, more = (
        attack(Noise(draws=draws), digit_classifier, *digit_batch, threat) for draws in (1, 8)
    )
    assert bool((few.fooled <= more.fooled).all())
    assert int(more.fooled.sum()) > int(few.fooled.sum())
    assert more.backward_passes == 0
    assert more.forward_passes < (2 + 8) * len(digit_batch[0]), "broken images were drawn for again"
