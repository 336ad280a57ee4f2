"""HGD's guide: feature maps of the protected classifier itself."""

import pytest
import torch
from torch import nn

from fend.models import build
from fend.pipeline import frozen
from training.losses.feature_loss import ClassifierGuide, FeatureLoss

IMAGES = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("architecture", "config", "size"),
    [
        ("paper-lenet", {}, 4 * 4 * 50),
        ("feature-denoise-lenet", {}, 4 * 4 * 50),
        ("resnet-18", {"channels": 1, "width": 4}, 32),
    ],
)
def test_features_are_the_last_convolutional_ones(architecture, config, size) -> None:
    classifier = frozen(build(architecture, config))
    maps = ClassifierGuide(classifier, "features")(IMAGES)
    assert {name: m.shape for name, m in maps.items()} == {"features": (2, size)}
    logits = ClassifierGuide(classifier, "logits")(IMAGES)
    assert torch.equal(logits["logits"], classifier(IMAGES))


def test_features_need_a_fully_connected_layer() -> None:
    with pytest.raises(ValueError, match="Sequential has no fully connected layer"):
        ClassifierGuide(nn.Sequential(nn.Conv2d(1, 2, 3)), "features")


def test_hgds_loss_is_the_mean_absolute_difference_of_logits() -> None:
    classifier = frozen(build("paper-lenet", {}))
    loss = FeatureLoss(
        ClassifierGuide(classifier, "logits"),
        scaling="elements",
        feature_weight=1,
        pixel_weight=0,
        distance="absolute",
    )
    denoised = IMAGES.flip(0).requires_grad_(True)
    terms = loss.terms(denoised, IMAGES, loss.targets(IMAGES))
    expected = (classifier(denoised) - classifier(IMAGES)).abs().mean()
    assert list(terms) == ["logits"]
    assert float(terms["logits"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    terms["logits"].backward()
    assert bool(denoised.grad.abs().sum() > 0)
