"""Our FGSM and PGD against two peers', on the same model and images."""

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fend.attacks import FGSM, PGD, attack
from fend.datasets import load
from fend.models import build
from fend.pipeline import frozen
from fend.threat import ThreatModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the peers' own imports warn
    import foolbox
    import torchattacks

EPSILON = 0.1


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    """A small network that knows rendered digits."""
    torch.manual_seed(0)
    images = load("rendered-digits:train", None)
    module = build("paper-lenet", {})
    optimiser = torch.optim.Adam(module.parameters(), lr=2e-3)
    for indices in torch.split(torch.randperm(len(images))[:3_000], 64):
        optimiser.zero_grad()
        F.cross_entropy(module(images.pixels(indices)), images.labels[indices]).backward()
        optimiser.step()
    return frozen(module)


@pytest.fixture(scope="module")
def batch(classifier) -> tuple[Tensor, Tensor]:
    images = load("rendered-digits:test", None)
    pixels, labels = images.pixels(slice(0, 200)), images.labels[:200]
    right = classifier(pixels).argmax(1) == labels
    assert int(right.sum()) > 150
    return pixels[right], labels[right]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fgsm_makes_the_same_images(classifier, batch) -> None:
    pixels, labels = batch
    ours = attack(FGSM(), classifier, pixels, labels, ThreatModel(epsilon=EPSILON)).adversarial
    theirs = torchattacks.FGSM(classifier, eps=EPSILON)(pixels, labels)
    assert float((ours - theirs).abs().max()) <= 1e-6
    model = foolbox.PyTorchModel(classifier, bounds=(0, 1), device="cpu")
    _, other, _ = foolbox.attacks.FGSM()(model, pixels, labels, epsilons=EPSILON)
    assert float((ours - other).abs().max()) <= 1e-6


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pgd_leaves_no_more_accuracy_than_the_peers(classifier, batch) -> None:
    pixels, labels = batch
    options = {"steps": 20, "step_size": EPSILON / 8}
    ours = attack(
        PGD(**options), classifier, pixels, labels, ThreatModel(epsilon=EPSILON), seed=0
    ).fooled
    robust = 1 - float(ours.float().mean())
    torch.manual_seed(0)
    theirs = torchattacks.PGD(classifier, eps=EPSILON, alpha=EPSILON / 8, steps=20)(pixels, labels)
    assert robust <= float((classifier(theirs).argmax(1) == labels).float().mean()) + 0.003
    model = foolbox.PyTorchModel(classifier, bounds=(0, 1), device="cpu")
    peer = foolbox.attacks.LinfPGD(abs_stepsize=EPSILON / 8, steps=20)
    _, _, fooled = peer(model, pixels, labels, epsilons=EPSILON)
    assert robust <= 1 - float(fooled.float().mean()) + 0.003
    assert 0.02 < robust < 0.98, "the comparison says nothing at this epsilon"
