"""Our FGSM and PGD against two peers', on the same model and images."""

import warnings

import pytest
import torch

from fend.attacks import FGSM, PGD, attack
from fend.threat import ThreatModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the peers' own imports warn
    import foolbox
    import torchattacks

EPSILON = 0.1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fgsm_makes_the_same_images(digit_classifier, digit_batch) -> None:
    pixels, labels = digit_batch
    ours = attack(
        FGSM(), digit_classifier, pixels, labels, ThreatModel(epsilon=EPSILON)
    ).adversarial
    theirs = torchattacks.FGSM(digit_classifier, eps=EPSILON)(pixels, labels)
    assert float((ours - theirs).abs().max()) <= 1e-6
    model = foolbox.PyTorchModel(digit_classifier, bounds=(0, 1), device="cpu")
    _, other, _ = foolbox.attacks.FGSM()(model, pixels, labels, epsilons=EPSILON)
    assert float((ours - other).abs().max()) <= 1e-6


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pgd_leaves_no_more_accuracy_than_the_peers(digit_classifier, digit_batch) -> None:
    pixels, labels = digit_batch
    options = {"steps": 20, "step_size": EPSILON / 8}
    ours = attack(
        PGD(**options), digit_classifier, pixels, labels, ThreatModel(epsilon=EPSILON), seed=0
    ).fooled
    robust = 1 - float(ours.float().mean())
    torch.manual_seed(0)
    theirs = torchattacks.PGD(digit_classifier, eps=EPSILON, alpha=EPSILON / 8, steps=20)(
        pixels, labels
    )
    assert robust <= float((digit_classifier(theirs).argmax(1) == labels).float().mean()) + 0.003
    model = foolbox.PyTorchModel(digit_classifier, bounds=(0, 1), device="cpu")
    peer = foolbox.attacks.LinfPGD(abs_stepsize=EPSILON / 8, steps=20)
    _, _, fooled = peer(model, pixels, labels, epsilons=EPSILON)
    assert robust <= 1 - float(fooled.float().mean()) + 0.003
    assert 0.02 < robust < 0.98, "the comparison says nothing at this epsilon"
