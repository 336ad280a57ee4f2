"""Sets of image places as short text, such as "0-9,12": small in JSON, and still to be read."""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

PATTERN = r"^([0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?$"

IndexRanges = Annotated[str, Field(pattern=PATTERN)]
"""Ascending places in a data set, runs joined by a dash; both ends are meant. Empty: none."""


def to_ranges(indices: Iterable[int]) -> str:
    """Places (>= 0, in any order) as text."""
    runs: list[tuple[int, int]] = []
    for index in sorted(set(indices)):
        if runs and index == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], index)
        else:
            runs.append((index, index))
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def from_ranges(text: str) -> frozenset[int]:
    """The places that `to_ranges` wrote.

    Raises:
        ValueError: the text is not of that form.
    """
    if not re.fullmatch(PATTERN, text):
        raise ValueError(f"{text[:50]!r} is no list of places such as 0-9,12")
    places: set[int] = set()
    for run in filter(None, text.split(",")):
        first, _, last = run.partition("-")
        places.update(range(int(first), int(last or first) + 1))
    return frozenset(places)
