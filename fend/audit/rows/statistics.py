"""How sure a measured share is, whether two of them differ, and how it is written."""

import math

Z_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


def wilson_interval(successes: int, trials: int, z: float = Z_95) -> tuple[float, float]:
    """The Wilson score interval of a share, 95 % by default: (low, high) in [0, 1].

    Unlike the textbook interval it stays inside [0, 1] and does not shrink to a point at 0 or n
    successes (Wilson 1927). Without trials it is (0, 1): nothing is known.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes do not fit {trials} trials")
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    denominator = 1 + z * z / trials
    centre = (share + z * z / (2 * trials)) / denominator
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials**2)) / denominator
    # Rounding would otherwise leave 1e-17 where the interval ends exactly at 0 or 1.
    low = 0.0 if successes == 0 else centre - spread
    high = 1.0 if successes == trials else centre + spread
    return low, high


def difference_interval(
    successes_a: int, trials_a: int, successes_b: int, trials_b: int
) -> tuple[float, float]:
    """The 95 % interval of share b minus share a, of independent samples: (low, high) in [-1, 1].

    Newcombe's hybrid score interval (1998, method 10), made of the two Wilson intervals.
    """
    a, b = successes_a / trials_a, successes_b / trials_b
    low_a, high_a = wilson_interval(successes_a, trials_a)
    low_b, high_b = wilson_interval(successes_b, trials_b)
    low = b - a - math.hypot(b - low_b, high_a - a)
    high = b - a + math.hypot(high_b - b, a - low_a)
    return max(low, -1.0), min(high, 1.0)


def paired_difference_interval(gained: int, lost: int, pairs: int) -> tuple[float, float]:
    """The 95 % interval of a change on the same images: (low, high) in [-1, 1].

    `gained` of `pairs` images became right and `lost` became wrong. The adjusted Wald interval of
    Bonett and Price (2012), which also holds for few changes.
    """
    if gained < 0 or lost < 0 or gained + lost > pairs:
        raise ValueError(f"{gained} gained and {lost} lost do not fit {pairs} pairs")
    up, down = (gained + 1) / (pairs + 2), (lost + 1) / (pairs + 2)
    spread = Z_95 * math.sqrt((up + down - (up - down) ** 2) / (pairs + 2))
    return max(up - down - spread, -1.0), min(up - down + spread, 1.0)


def mcnemar_p_value(gained: int, lost: int) -> float:
    """How likely so uneven a split of the changed images is by chance alone (two-sided, exact).

    McNemar's test (1947) as a binomial test of the images whose outcome differs.
    """
    changed = gained + lost
    ways = tail = 1
    for k in range(min(gained, lost)):
        ways = ways * (changed - k) // (k + 1)
        tail += ways
    # Integers to the end: 0.5**changed would be zero for many changes.
    p_value: float = 2 * tail / 2**changed
    return min(1.0, p_value)


def percent(share: float) -> str:
    """Such as 43.0 %."""
    return f"{100 * share:.1f} %"
