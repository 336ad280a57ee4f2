"""Denoisers without weights: known values, a peer, what they do to gradients, batch layout."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from refusals import code
from scipy import ndimage
from torch import Tensor, nn

from fend.datasets import load
from fend.errors import Invalid
from fend.models import build
from fend.models.architectures.noise_reduction import cross_mean, entropy_bits
from reproduction.detectors import class_changes, squeezing_scores, threshold_at

UNTRAINED: Sequence[tuple[str, dict[str, object]]] = [
    ("bit-depth", {"bits": 3}),
    ("median-filter", {"size_px": 2}),
    ("median-filter", {"size_px": 3}),
    ("non-local-means", {}),
    ("noise-reduction", {}),
    ("control-gradient-killer", {"inner": {"architecture": "identity"}}),
    ("sequence", {"stages": [{"architecture": "bit-depth", "config": {"bits": 1}},
                             {"architecture": "median-filter"}]}),
]  # fmt: skip


def some_images(*shape: int) -> Tensor:
    """Images of 256 levels, as uploads are."""
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1)) / 255


@pytest.mark.parametrize(("architecture", "config"), UNTRAINED[:-2] + UNTRAINED[-1:])
@pytest.mark.parametrize("shape", [(5, 1, 28, 28), (3, 3, 32, 20), (2, 1, 5, 4)])
def test_an_image_is_cleaned_alike_alone_and_in_any_batch(architecture, config, shape) -> None:
    denoiser = build(architecture, config)
    images = some_images(*shape)
    images[1] *= 0.1  # plain beside busy: another branch of noise reduction
    cleaned = denoiser(images)
    assert cleaned.shape == images.shape
    assert float(cleaned.min()) >= 0
    assert float(cleaned.max()) <= 1
    alone = torch.cat([denoiser(image[None]) for image in images.flip(0)]).flip(0)
    assert torch.allclose(cleaned, alone, atol=1e-6)


def test_bit_depth_keeps_both_ends_and_nothing_between_its_levels() -> None:
    one_bit = build("bit-depth", {"bits": 1})
    assert one_bit(torch.tensor([0.0, 0.49, 0.51, 1.0])).tolist() == [0.0, 0.0, 1.0, 1.0]
    levels = build("bit-depth", {"bits": 3})(torch.linspace(0, 1, 1_000)).unique()
    assert levels.tolist() == pytest.approx([k / 7 for k in range(8)])
    eight_bits = some_images(1, 1, 16, 16)
    assert torch.allclose(build("bit-depth", {"bits": 8})(eight_bits), eight_bits)


@pytest.mark.parametrize("size_px", [2, 3])
def test_the_median_is_scipys(size_px: int) -> None:
    images = some_images(2, 3, 9, 11)
    expected = ndimage.median_filter(images.numpy(), size=(1, 1, size_px, size_px), mode="reflect")
    assert np.array_equal(build("median-filter", {"size_px": size_px})(images), expected)


def test_non_local_means_smooths_noise_and_keeps_edges() -> None:
    torch.manual_seed(0)
    edge = torch.full((1, 1, 24, 24), 0.25)
    edge[..., 12:] = 0.75
    noisy = edge + 0.05 * torch.randn_like(edge)
    cleaned = build("non-local-means", {"strength": 20})(noisy)
    assert float((cleaned - edge).abs().mean()) < 0.5 * float((noisy - edge).abs().mean())
    flat = torch.full((1, 3, 8, 8), 0.3)
    assert torch.allclose(build("non-local-means", {})(flat), flat)


def test_a_non_local_mean_is_the_one_written_out() -> None:
    """One pixel by hand: weights exp(-mean squared patch difference / h^2) over the window."""
    images = some_images(1, 2, 9, 9).double() * 0.1
    cleaned = build("non-local-means", {"search_px": 3, "patch_px": 3, "strength": 10})(images)
    row, column = 4, 5

    def patch(r: int, c: int) -> Tensor:
        return images[0, :, r - 1 : r + 2, c - 1 : c + 2]

    total, weights = torch.zeros(2, dtype=torch.double), 0.0
    for r in range(row - 1, row + 2):
        for c in range(column - 1, column + 2):
            distance = float((patch(r, c) - patch(row, column)).square().mean())
            weight = math.exp(-distance / (10 / 255) ** 2)
            total += weight * images[0, :, r, c]
            weights += weight
    assert torch.allclose(cleaned[0, :, row, column], total / weights)


def test_entropy_counts_the_levels_of_each_image() -> None:
    flat = torch.full((1, 1, 16, 16), 0.5)
    halves = torch.cat([torch.zeros(1, 1, 8, 16), torch.ones(1, 1, 8, 16)], dim=2)
    all_levels = torch.arange(256).view(1, 1, 16, 16) / 255
    assert entropy_bits(torch.cat([flat, halves, all_levels])).tolist() == pytest.approx([0, 1, 8])
    two_channels = torch.cat([flat, all_levels], dim=1)
    assert entropy_bits(two_channels).tolist() == pytest.approx([4])


def test_noise_reduction_has_more_levels_for_busier_images() -> None:
    reduce_noise = build("noise-reduction", {})
    plain, medium, busy = (
        torch.arange(256).remainder(levels).mul(256 // levels).view(1, 1, 16, 16) / 255
        for levels in (8, 16, 256)
    )
    levels = [
        {round(255 * value) for value in reduce_noise(images).unique().tolist()}
        for images in (plain, medium)
    ]
    assert levels == [{0, 128}, {0, 64, 128, 192}]
    # Busy: quantised to 43 levels apart, or the mean of 13 such, whichever is closer.
    cleaned = reduce_noise(busy)
    quantised = (busy * 255 / 43).floor() * 43 / 255
    smoothed = cross_mean(quantised, 3)
    smallest = torch.minimum((quantised - busy).abs(), (smoothed - busy).abs())
    assert torch.equal((cleaned - busy).abs(), smallest)
    assert not torch.equal(cleaned, quantised)


def test_a_cross_mean_takes_thirteen_pixels_and_leaves_the_border() -> None:
    images = torch.zeros(1, 1, 9, 9)
    images[..., 4, 7] = 13.0
    smoothed = cross_mean(images, 3)
    assert float(smoothed[0, 0, 4, 4]) == pytest.approx(1)
    assert float(smoothed[0, 0, 3, 4]) == 0
    assert float(smoothed[0, 0, 4, 7]) == 13.0


@pytest.mark.parametrize(
    ("architecture", "config"), [("bit-depth", {"bits": 1}), ("noise-reduction", {})]
)
def test_rounding_has_no_gradient_and_breaks_no_graph(architecture, config) -> None:
    images = some_images(2, 1, 28, 28).requires_grad_(True)
    (gradient,) = torch.autograd.grad(build(architecture, config)(images).sum(), images)
    assert torch.equal(gradient, torch.zeros_like(images))


@pytest.mark.parametrize(
    ("architecture", "config"),
    [("median-filter", {}), ("non-local-means", {"strength": 40, "search_px": 5})],
)
def test_filters_have_their_true_gradient(architecture, config) -> None:
    denoiser = build(architecture, config)
    images = (some_images(1, 1, 8, 8) + 0.001 * torch.rand(1, 1, 8, 8)).double()
    assert torch.autograd.gradcheck(denoiser, images.requires_grad_(True))


@pytest.mark.parametrize(
    ("architecture", "config", "named"),
    [
        ("bit-depth", {"bits": 0}, "bits"),
        ("median-filter", {"size_px": 1}, "size_px"),
        ("non-local-means", {"patch_px": 4}, "patch_px"),
        ("non-local-means", {"strength": 0}, "strength"),
        ("control-random-resize", {"smallest": 0}, "smallest"),
        ("paper-autoencoder", {"size_px": 30}, "size_px"),
        ("paper-lenet", {"size_px": 8}, "size_px"),
        ("resnet-18", {"denoise_after": [5]}, "denoise_after"),
        ("control-scaled-logits", {"inner": {"architecture": "nothing"}}, "nothing"),
        ("control-scaled-logits", {"inner": "paper-lenet"}, "paper-lenet"),
        ("sequence", {"stages": [{"architecture": "identity", "weights": 1}]}, "weights"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_named(architecture, config, named) -> None:
    with pytest.raises(Invalid, match=named, check=code("architecture_unknown")):
        build(architecture, config)


def test_squeezing_tells_attacked_digits_from_clean_ones(digit_classifier, digit_batch):
    images, labels = digit_batch
    leaf = images.clone().requires_grad_(True)
    torch.nn.functional.cross_entropy(digit_classifier(leaf), labels).backward()
    attacked = (images + 0.2 * leaf.grad.sign()).clamp(0, 1)
    fooled = digit_classifier(attacked).argmax(1) != labels
    squeezers = [build("bit-depth", {"bits": 1}), build("median-filter", {})]

    clean_scores = squeezing_scores(digit_classifier, images, squeezers)
    threshold = threshold_at(clean_scores[::2])
    fresh = clean_scores[1::2] > threshold
    caught = squeezing_scores(digit_classifier, attacked[fooled], squeezers) > threshold
    assert float(fresh.float().mean()) < 0.15
    assert float(caught.float().mean()) > float(fresh.float().mean()) + 0.2
    assert float(clean_scores.max()) <= 2

    noise = build("noise-reduction", {})
    changed = class_changes(digit_classifier, attacked[fooled], noise).float().mean()
    assert float(changed) > float(class_changes(digit_classifier, images, noise).float().mean())


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5])
@pytest.mark.parametrize("n", [1, 19, 20, 100])
def test_no_more_clean_images_are_flagged_than_asked_and_no_fewer_than_possible(rate, n) -> None:
    scores = torch.randperm(n, generator=torch.Generator().manual_seed(n)).float()
    flagged = int((scores > threshold_at(scores, rate)).sum())
    assert flagged == math.floor(rate * n)


def test_images_with_equal_scores_are_not_flagged_beyond_the_rate() -> None:
    scores = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert int((scores > threshold_at(scores, 0.5)).sum()) == 0


def test_a_threshold_needs_scores() -> None:
    for scores in (torch.tensor([]), torch.tensor([0.1, math.nan])):
        with pytest.raises(Invalid, match="clean_scores"):
            threshold_at(scores)
    with pytest.raises(Invalid, match="false_positive_rate"):
        threshold_at(torch.rand(5), 1.0)
    with pytest.raises(Invalid, match="squeezer"):
        squeezing_scores(nn.Identity(), torch.rand(1, 2), [])


def test_noise_reduction_still_shows_the_digit(digit_classifier: nn.Module) -> None:
    digits = load("rendered-digits:test", None).subset(slice(0, 100))
    images = build("noise-reduction", {})(digits.pixels(slice(None)))
    answers = digit_classifier(images).argmax(1)
    assert float((answers == digits.labels).float().mean()) > 0.5
