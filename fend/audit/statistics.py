"""How sure a measured share is."""

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
