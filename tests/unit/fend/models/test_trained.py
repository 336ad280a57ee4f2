"""Networks for the other defences: sizes, shapes, batch independence, a bundle and back."""

import pytest
import small_bundles
import torch
from torch import nn
from torch.nn import functional as F

from fend.bundles import load_bundle
from fend.images import InputSpec
from fend.models import build, parameter_count
from fend.models.architectures.feature_denoise import FeatureDenoise
from fend.pipeline import frozen


@pytest.mark.parametrize(
    ("architecture", "config", "shape"),
    [
        ("hgd-unet", {"width": 4}, (1, 28, 28)),
        ("hgd-unet", {"width": 4, "channels": 3}, (3, 32, 32)),
        ("hgd-unet", {"width": 4}, (1, 29, 31)),
        ("residual-unet", {"width": 4, "channels": 3}, (3, 32, 32)),
        ("residual-unet", {"width": 4, "channels": 3, "fold": 2, "scales": 3}, (3, 32, 32)),
        ("paper-autoencoder", {"channels": 3}, (3, 28, 28)),
        ("paper-autoencoder", {"channels": 3, "size_px": 32}, (3, 32, 32)),
    ],
)
def test_denoisers_give_images_back_in_their_shape(architecture, config, shape) -> None:
    assert build(architecture, config)(torch.rand(2, *shape)).shape == (2, *shape)


@pytest.mark.parametrize(
    ("architecture", "config", "shape"),
    [
        ("paper-lenet", {"channels": 3, "size_px": 32, "classes": 7}, (3, 32, 32)),
        ("feature-denoise-lenet", {"classes": 7}, (1, 28, 28)),
        ("feature-denoise-lenet", {"classes": 7, "channels": 3, "size_px": 32}, (3, 32, 32)),
        ("resnet-18", {"classes": 7, "width": 4}, (3, 32, 32)),
        ("preact-resnet", {"classes": 7, "widths": [4, 8], "blocks": 2}, (3, 32, 32)),
        ("resnet-18", {"classes": 7, "width": 4, "channels": 1}, (1, 28, 28)),
        ("resnet-18", {"classes": 7, "width": 4, "denoise_after": [2, 4]}, (3, 32, 32)),
    ],
)
def test_classifiers_give_a_logit_a_class(architecture, config, shape) -> None:
    assert build(architecture, config)(torch.rand(2, *shape)).shape == (2, 7)


def test_resnet_18_has_its_published_size() -> None:
    assert parameter_count(build("resnet-18", {})) == 11_173_962


def test_a_fresh_hgd_unet_changes_nothing_and_a_trained_one_adds_a_residual() -> None:
    torch.manual_seed(0)
    unet = build("hgd-unet", {"width": 4})
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(unet(images), images)
    nn.init.constant_(unet.last.bias, 0.25)
    assert torch.allclose(unet(images), images + 0.25)


def test_hgds_blocks_hold_two_convolutions_at_full_size_and_three_below() -> None:
    unet = build("hgd-unet", {})
    counts = [
        [sum(isinstance(layer, nn.Conv2d) for layer in block) for block in part]
        for part in (unet.down, unet.up)
    ]
    assert counts == [[2, 3, 3], [3, 2]]
    widths = [block[0].out_channels for block in unet.down]
    assert widths == [32, 64, 128]


@pytest.mark.parametrize(
    ("architecture", "config", "shape"),
    [
        ("hgd-unet", {"width": 4}, (1, 28, 28)),
        ("resnet-18", {"width": 4, "denoise_after": [1, 3]}, (3, 32, 32)),
    ],
)
def test_a_served_answer_does_not_depend_on_its_batch(architecture, config, shape) -> None:
    """ART #484, torchattacks #124: batch statistics at work while a model is attacked."""
    torch.manual_seed(0)
    module = build(architecture, config)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    for _ in range(3):
        module(torch.rand(8, *shape))  # training mode: the running statistics move
    frozen(module)
    images = torch.rand(6, *shape)
    together = module(images)
    alone = torch.cat([module(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-4, rtol=1e-4)
    assert torch.equal(module(images), together)


def test_a_feature_denoise_block_is_the_softmax_mean_written_out() -> None:
    torch.manual_seed(0)
    block = FeatureDenoise(4)
    features = torch.randn(2, 4, 3, 5)
    assert torch.equal(block(features), features)  # starts as the identity
    nn.init.normal_(block.project.weight)
    flat, query, key = (
        m.flatten(2) for m in (features, block.theta(features), block.phi(features))
    )
    weights = torch.softmax(torch.einsum("ndi,ndj->nij", query, key) / query.shape[1] ** 0.5, 2)
    means = torch.einsum("nij,ncj->nci", weights, flat).view_as(features)
    expected = features + block.project(means)
    assert torch.allclose(block(features), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "config", "shape"),
    [
        ("feature-denoise-lenet", {}, (1, 28, 28)),
        ("resnet-18", {"width": 4, "denoise_after": [2]}, (3, 32, 32)),
    ],
)
def test_every_weight_learns_and_the_image_gets_a_gradient(architecture, config, shape) -> None:
    torch.manual_seed(0)
    module = build(architecture, config)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    images, labels = torch.rand(8, *shape).requires_grad_(True), torch.arange(8)
    before = {name: value.clone() for name, value in module.named_parameters()}
    for _ in range(3):  # a block that starts as the identity opens at the first step
        optimiser.zero_grad()
        F.cross_entropy(module(images), labels).backward()
        optimiser.step()
    still = [name for name, value in module.named_parameters() if torch.equal(value, before[name])]
    assert still == []
    assert bool(images.grad.flatten(1).any(1).all())


RESNET = {"architecture": "resnet-18", "config": {"width": 4}}
UNET = {"architecture": "hgd-unet", "config": {"width": 4, "channels": 3}}


@pytest.mark.parametrize(
    ("denoiser", "classifier"),
    [
        (("bit-depth", {"bits": 5}), ("resnet-18", {"width": 4, "denoise_after": [2]})),
        (("hgd-unet", UNET["config"]), ("paper-lenet", {"channels": 3, "size_px": 32})),
        (
            ("sequence", {"stages": [UNET, {"architecture": "median-filter"}]}),
            ("control-scaled-logits", {"inner": RESNET}),
        ),
    ],
)
def test_a_bundle_answers_the_same_after_a_round_trip(tmp_path, denoiser, classifier):
    torch.manual_seed(0)
    modules = [build(*denoiser), build(*classifier)]
    for module in modules:
        module(torch.rand(4, 3, 32, 32))  # so that batch statistics are not the fresh ones
    parts = {"denoiser": (*denoiser, modules[0]), "classifier": (*classifier, modules[1])}
    rgb = InputSpec(channels=3, height_px=32, width_px=32)
    small_bundles.save(tmp_path / "there", input_spec=rgb, **parts)
    images = torch.rand(3, 3, 32, 32)
    expected = frozen(modules[1])(frozen(modules[0])(images))
    assert torch.equal(load_bundle(tmp_path / "there").defence(images), expected)
