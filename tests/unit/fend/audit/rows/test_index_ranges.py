"""Places in a data set as short text."""

import random

import pytest

from fend.audit.rows.index_ranges import from_ranges, to_ranges


def test_places_are_written_short_and_read_back() -> None:
    assert to_ranges([5, 3, 4, 9, 0, 0]) == "0,3-5,9"
    generator = random.Random(0)
    for _ in range(200):
        places = {generator.randrange(60) for _ in range(generator.randrange(40))}
        assert from_ranges(to_ranges(places)) == places
    with pytest.raises(ValueError, match="no list of places"):
        from_ranges("3-")
