"""Equation 4, on loss networks with made-up weights and the published shapes."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from fend.datasets import ImageSet
from fend.errors import Invalid
from training.losses import networks
from training.losses.cache import FeatureCache
from training.losses.feature_loss import FeatureLoss
from training.losses.networks import Source, load_loss_network

WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
POSITIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """A file in the layout of vgg16-cifar10, with random weights."""
    folder = tmp_path_factory.mktemp("data") / "loss-networks"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    state = {}
    inputs = 3
    for position, width in zip(POSITIONS, WIDTHS, strict=True):
        scale = (2 / (inputs * 9)) ** 0.5
        weight = scale * torch.randn(width, inputs, 3, 3, generator=generator)
        state[f"{position}.weight"] = weight.half()
        state[f"{position}.bias"] = torch.zeros(width).half()
        inputs = width
    save_file(state, folder / "vgg16_cifar10.safetensors")
    return folder.parent


@pytest.fixture(autouse=True)
def _known_digest(data_dir, monkeypatch) -> None:
    path = data_dir / "loss-networks" / "vgg16_cifar10.safetensors"
    real = networks.SOURCES["vgg16-cifar10"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    source = Source(real.file, digest, real.taps)
    sources = {**networks.SOURCES, "vgg16-cifar10": source}
    monkeypatch.setattr(networks, "SOURCES", sources)


@pytest.mark.parametrize(
    ("profile", "shapes"),
    [
        ("text", {"relu5_3": (512, 2, 2), "relu4_2": (512, 4, 4), "relu3_2": (256, 8, 8)}),
        ("shapes", {"relu5_3": (512, 2, 2), "pool3": (256, 4, 4), "pool2": (128, 8, 8)}),
        ("author_code", {"relu5_2": (512, 2, 2), "pool4": (512, 2, 2), "relu4_2": (512, 4, 4)}),
    ],
)
def test_the_tap_profiles_have_the_shapes_of_research(data_dir, profile, shapes) -> None:
    network = load_loss_network("vgg16-cifar10", profile, data_dir)
    maps = network(torch.rand(2, 1, 28, 28))
    assert {name: tuple(m.shape[1:]) for name, m in maps.items()} == shapes


def test_the_loss_network_is_frozen_and_the_target_has_no_gradient(data_dir) -> None:
    network = load_loss_network("vgg16-cifar10", "text", data_dir)
    loss = FeatureLoss(network, scaling="elements", feature_weight=1, pixel_weight=1)
    clean = torch.rand(2, 1, 28, 28, requires_grad=True)
    denoised = torch.rand(2, 1, 28, 28, requires_grad=True)
    loss.train()
    targets = loss.targets(clean)
    terms = loss.terms(denoised, clean.detach(), targets)
    torch.stack(list(terms.values())).sum().backward()
    assert clean.grad is None
    assert bool(denoised.grad.abs().sum() > 0)
    assert not any(p.requires_grad for p in network.parameters())


def test_each_term_is_a_plain_mean_as_equation_4_weighs_it(data_dir) -> None:
    network = load_loss_network("vgg16-cifar10", "shapes", data_dir)
    loss = FeatureLoss(network, scaling="elements", feature_weight=1, pixel_weight=1)
    clean, denoised = torch.rand(3, 1, 28, 28), torch.rand(3, 1, 28, 28)
    terms = loss.terms(denoised, clean, loss.targets(clean))
    alpha = 1 / (2 * 2 * 512)
    squared = (network(clean)["relu5_3"] - network(denoised)["relu5_3"]).square()
    assert float(terms["relu5_3"]) == pytest.approx(
        alpha * float(squared.flatten(1).sum(1).mean()), rel=1e-4
    )
    delta = 1 / 784
    pixels = (clean - denoised).square().flatten(1).sum(1).mean()
    assert float(terms["pixel"]) == pytest.approx(delta * float(pixels), rel=1e-4)


def test_equal_images_cost_nothing_and_magnitudes_make_terms_comparable(data_dir) -> None:
    network = load_loss_network("vgg16-cifar10", "text", data_dir)
    loss = FeatureLoss(network, scaling="magnitude", feature_weight=1, pixel_weight=1)
    levels = torch.randint(256, (4, 1, 28, 28), dtype=torch.uint8)
    images = ImageSet("noise", levels, torch.arange(4), tuple("abcd"))
    loss.calibrate(images, torch.device("cpu"))
    clean = images.pixels(slice(None))
    assert all(float(t) == 0 for t in loss.terms(clean, clean, loss.targets(clean)).values())
    nothing = {name: torch.zeros_like(m) for name, m in network(clean).items()}
    relative = loss.terms(clean, clean, nothing)
    assert all(float(relative[name]) == pytest.approx(1, rel=1e-3) for name in nothing)


def _gradient(loss: FeatureLoss, clean: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    denoised = shown.clone().requires_grad_(True)
    total = torch.stack(list(loss.terms(denoised, clean, loss.targets(clean)).values())).sum()
    (gradient,) = torch.autograd.grad(total, denoised)
    return total.detach(), gradient


def test_bfloat16_asks_for_the_same_as_float32(data_dir) -> None:
    network = load_loss_network("vgg16-cifar10", "text", data_dir)
    clean, shown = torch.rand(4, 1, 28, 28), torch.rand(4, 1, 28, 28)
    (exact, wanted), (total, gradient) = (
        _gradient(
            FeatureLoss(
                network, scaling="elements", feature_weight=1, pixel_weight=0, precision=precision
            ),
            clean,
            shown,
        )
        for precision in (torch.float32, torch.bfloat16)
    )
    assert total.dtype == torch.float32
    assert float(total) != float(exact)
    assert float(total) == pytest.approx(float(exact), rel=0.02)
    assert float(F.cosine_similarity(gradient.flatten(), wanted.flatten(), dim=0)) > 0.95


def test_a_compiler_sees_the_loss_network_as_one_graph(data_dir) -> None:
    clean, shown = torch.rand(2, 1, 28, 28), torch.rand(2, 1, 28, 28)
    plain, compiled = (load_loss_network("vgg16-cifar10", "text", data_dir) for _ in range(2))
    compiled.compile(fullgraph=True, backend="aot_eager")
    (exact, wanted), (total, gradient) = (
        _gradient(
            FeatureLoss(network, scaling="elements", feature_weight=1, pixel_weight=1), clean, shown
        )
        for network in (plain, compiled)
    )
    assert float(total) == pytest.approx(float(exact), rel=1e-4)
    assert torch.allclose(gradient, wanted, rtol=1e-3, atol=1e-6)


def test_small_images_are_padded_not_blurred_and_large_ones_resized(data_dir) -> None:
    network = load_loss_network("vgg16-cifar10", ["relu1_1"], data_dir)
    small = torch.rand(1, 1, 28, 28)
    padded = torch.nn.functional.pad(small, (2, 2, 2, 2))
    assert torch.allclose(network(small)["relu1_1"], network(padded)["relu1_1"])
    assert network(torch.rand(1, 3, 64, 48))["relu1_1"].shape[-2:] == (32, 32)


def test_cached_features_equal_computed_ones(data_dir) -> None:
    network = load_loss_network("vgg16-cifar10", "shapes", data_dir)
    loss = FeatureLoss(network, scaling="elements", feature_weight=1, pixel_weight=1)
    images = torch.rand(6, 1, 28, 28)
    calls = []

    def compute(batch):
        calls.append(len(batch))
        return loss.targets(batch)

    cache = FeatureCache(compute, images=6, limit_bytes=2**30)
    for indices in (torch.tensor([0, 2]), torch.tensor([2, 5, 1]), torch.tensor([5, 0])):
        maps = cache.get(indices, images[indices])
        for name, expected in loss.targets(images[indices]).items():
            assert torch.allclose(maps[name], expected, rtol=2e-3, atol=2e-3)
    assert calls == [2, 2]
    too_small = FeatureCache(compute, images=6, limit_bytes=10)
    assert set(too_small.get(torch.tensor([0]), images[:1])) == {"relu5_3", "pool3", "pool2"}
    assert not too_small.enabled


@pytest.mark.parametrize(
    ("name", "taps", "said"),
    [
        ("vgg19", "text", "there are"),
        ("vgg16-cifar10", "texts", "author_code"),
        ("vgg16-cifar10", ["relu9_9"], "relu9_9"),
        ("vgg16-voc", "text", "vgg16_ssd300voc_blocks123.safetensors"),
        ("vgg16-voc", "author_code", "shapes"),
    ],
)
def test_what_is_not_to_be_had_is_said(data_dir, name, taps, said) -> None:
    with pytest.raises(Invalid, match=said):
        load_loss_network(name, taps, data_dir)


def test_another_file_than_the_published_one_is_refused(data_dir, tmp_path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"0.weight": torch.zeros(1)}, path)
    with pytest.raises(Invalid, match="sha256"):
        load_loss_network("vgg16-cifar10", "text", data_dir, file=path)
