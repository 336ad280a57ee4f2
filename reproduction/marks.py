"""Which of the attacked images are wrong, in a text that stays small: one bit an image.

Hex digits of a number whose lowest bit is the first image. Cells on the same images can be compared
image by image.
"""

from collections.abc import Collection, Sequence


def to_marks(wrong: Collection[int], images: Sequence[int]) -> str:
    """`wrong` of `images`, both places in the data set, as text."""
    return f"{sum(1 << rank for rank, place in enumerate(images) if place in wrong):x}"


def from_marks(text: str) -> frozenset[int]:
    """The ranks, from 0, of the images that `to_marks` was told of."""
    bits = int(text, 16)
    return frozenset(rank for rank in range(bits.bit_length()) if bits >> rank & 1)
