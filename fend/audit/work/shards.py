"""An audit cut into units of work."""

from dataclasses import dataclass

from fend.audit.spec import AuditSpec
from fend.datasets import ImageSet

CURVE_SAMPLES = 500
"""At most so many images are on the curve of accuracy against epsilon."""
FOOLED_EXAMPLES = 4
"""For each example that is always kept, so many images are where an attack won on them."""


@dataclass(frozen=True)
class Shard:
    """Some of an audit's images, to be attacked in one go.

    What is not done on every image (probes, curve, examples) is done on images that are spread
    evenly over the plan. So it is part of the shards, which all take about as long; it depends on
    the plan alone, not on how it is cut; and a data set that is sorted by class is not probed on
    its first class only.
    """

    number: int
    indices: tuple[int, ...]
    """Places in the data set, which seed each image's random draws."""
    probed: frozenset[int] = frozenset()
    """Those of `indices` that the sanity probes run on."""
    on_curve: frozenset[int] = frozenset()
    shown: frozenset[int] = frozenset()
    """Kept as examples at every line."""
    shown_if_fooled: frozenset[int] = frozenset()
    """Kept as examples at the lines that broke them."""


def shards_of(spec: AuditSpec, image_set: ImageSet, most: int = 1_000) -> list[Shard]:
    """The shards of an audit, of at most `most` images; together they hold each drawn one once."""
    indices = image_set.sample(spec.samples, spec.seed).tolist()
    curve_samples = CURVE_SAMPLES if spec.epsilons else 0
    probed, on_curve, shown, shown_if_fooled = (
        _spread(indices, count)
        for count in (
            spec.sanity_samples,
            curve_samples,
            spec.examples,
            spec.examples * FOOLED_EXAMPLES,
        )
    )
    shards = []
    size = min(spec.shard_size, most)
    for number, start in enumerate(range(0, len(indices), size)):
        own = tuple(indices[start : start + size])
        shards.append(
            Shard(
                number,
                own,
                probed & set(own),
                on_curve & set(own),
                shown & set(own),
                shown_if_fooled & set(own),
            )
        )
    return shards


def _spread(indices: list[int], count: int) -> frozenset[int]:
    """`count` of `indices` (or all, if there are fewer), as far apart as can be."""
    total = len(indices)
    if count >= total:
        return frozenset(indices)
    return frozenset(indices[place * total // count] for place in range(count))
