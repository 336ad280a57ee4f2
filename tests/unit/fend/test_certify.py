"""Certificates by randomised smoothing, against what is known in closed form."""

import importlib
import math
from statistics import NormalDist

import pytest
import torch
from torch import nn

from fend.guarantees.smoothing import Certificate, certify, lower_bound


class HalfSpace(nn.Module):
    """Class 1 where the first pixel is above 1/2: its smoothed radius is known."""

    def forward(self, images):
        score = images[:, 0, 0, 0] - 0.5
        return torch.stack([-score, score], dim=1)


class Undecided(nn.Module):
    """Answers by the sign of the noise: as often one class as the other."""

    def forward(self, images):
        score = images[:, 0, 0, 0] - 0.25
        return torch.stack([-score, score], dim=1)


@pytest.mark.parametrize("alpha", [0.001, 0.05])
@pytest.mark.parametrize(
    ("successes", "trials"), [(1, 1), (1, 10), (7, 10), (99, 100), (812, 1000), (99_990, 100_000)]
)
def test_the_lower_bound_is_the_exact_quantile(successes, trials, alpha) -> None:
    beta = importlib.import_module("scipy.stats").beta
    exact = beta.ppf(alpha, successes, trials - successes + 1)
    assert lower_bound(successes, trials, alpha) == pytest.approx(exact, rel=1e-8)


def test_the_lower_bound_at_the_ends() -> None:
    assert lower_bound(0, 100, 0.001) == 0.0
    assert lower_bound(1000, 1000, 0.001) == pytest.approx(0.001 ** (1 / 1000), rel=1e-12)
    with pytest.raises(ValueError, match="do not fit"):
        lower_bound(3, 2, 0.001)


def test_the_bound_is_wrong_no_more_often_than_alpha() -> None:
    """Of 20,000 experiments with a known probability."""
    probability, trials, alpha = 0.93, 200, 0.05
    binomial = torch.distributions.Binomial(trials, torch.tensor(probability))
    torch.manual_seed(0)
    counts, times = binomial.sample((20_000,)).unique(return_counts=True)
    wrong = sum(
        int(count)
        for successes, count in zip(counts, times, strict=True)
        if lower_bound(int(successes), trials, alpha) > probability
    )
    assert wrong / 20_000 <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 20_000)


def test_the_radius_is_the_distance_to_the_boundary_or_less() -> None:
    """For a half space the smoothed classifier's radius is exactly that distance."""
    images = torch.zeros(4, 1, 2, 2)
    images[:, 0, 0, 0] = torch.tensor([0.9, 0.7, 0.2, 0.45])
    sigma, samples = 0.25, 20_000
    certificates = certify(HalfSpace(), images, [1, 2, 3, 4], sigma=sigma, samples=samples)
    distances = (images[:, 0, 0, 0] - 0.5).abs().tolist()
    assert [c.index for c in certificates] == [1, 1, 0, 0]
    for certificate, distance in zip(certificates, distances, strict=True):
        assert certificate.radius <= distance
        assert certificate.radius == pytest.approx(distance, abs=0.03)


def test_an_undecided_classifier_abstains() -> None:
    images = torch.full((8, 1, 2, 2), 0.25)
    certificates = certify(Undecided(), images, range(8), sigma=0.5)
    assert certificates == [Certificate(None, 0.0)] * 8
    assert certificates[0].abstained


def test_all_votes_for_one_class_give_the_largest_radius_there_is() -> None:
    [certificate] = certify(HalfSpace(), torch.full((1, 1, 2, 2), 100.0), [0], sigma=0.5)
    largest = 0.5 * NormalDist().inv_cdf(0.001 ** (1 / 1000))
    assert certificate.radius == pytest.approx(largest)
    assert largest == pytest.approx(0.5 * 2.46, abs=0.002)


def test_a_certificate_depends_on_the_image_and_its_seed_alone() -> None:
    images = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    together = certify(HalfSpace(), images, range(5), sigma=0.5, samples=333)
    alone = [
        certify(HalfSpace(), images[i : i + 1], [i], sigma=0.5, samples=333)[0] for i in range(5)
    ]
    assert together == alone
    assert together != certify(HalfSpace(), images, range(5, 10), sigma=0.5, samples=333)


def test_it_can_be_given_up_between_two_passes() -> None:
    passes = []

    class Enough(Exception):
        pass

    def on_batch() -> None:
        passes.append(1)
        if len(passes) == 3:
            raise Enough

    with pytest.raises(Enough):
        certify(HalfSpace(), torch.rand(1, 1, 2, 2), [0], sigma=0.5, on_batch=on_batch)
    assert len(passes) == 3
