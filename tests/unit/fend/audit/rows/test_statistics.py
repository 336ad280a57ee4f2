"""Intervals and tests against published values."""

import pytest

from fend.audit.rows.statistics import (
    difference_interval,
    mcnemar_p_value,
    paired_difference_interval,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [  # Newcombe 1998, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_the_ends_are_exact() -> None:
    for trials in range(1, 200):
        assert wilson_interval(0, trials)[0] == 0.0
        assert wilson_interval(trials, trials)[1] == 1.0


def test_nothing_is_known_without_trials() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_more_successes_than_trials_are_refused() -> None:
    with pytest.raises(ValueError, match="3 successes"):
        wilson_interval(3, 2)


@pytest.mark.parametrize(
    ("a", "b", "low", "high"),
    [  # Newcombe 1998 on differences, table II, method 10
        ((48, 80), (56, 70), 0.0524, 0.3339),
        ((3, 10), (9, 10), 0.1705, 0.8090),
        ((0, 29), (5, 56), -0.0381, 0.1926),
    ],
)
def test_differences_of_independent_shares(a, b, low, high):
    assert difference_interval(*a, *b) == pytest.approx((low, high), abs=5e-5)
    assert difference_interval(*b, *a) == pytest.approx((-high, -low), abs=5e-5)


def test_paired_changes() -> None:
    # By hand: 2 * (1 + 10) / 2**10.
    assert mcnemar_p_value(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar_p_value(9, 1) == mcnemar_p_value(1, 9)
    assert mcnemar_p_value(0, 0) == mcnemar_p_value(3, 3) == 1.0
    # The normal limit: 100 / sqrt(10,100) = 0.995 deviations.
    assert mcnemar_p_value(5_000, 5_100) == pytest.approx(0.3246, abs=1e-3)
    low, high = paired_difference_interval(9, 1, 100)
    assert low > 0
    assert (low + high) / 2 == pytest.approx(8 / 102)
    assert paired_difference_interval(0, 0, 200) == pytest.approx((-0.0137, 0.0137), abs=1e-4)
    with pytest.raises(ValueError, match="do not fit"):
        paired_difference_interval(3, 3, 5)
