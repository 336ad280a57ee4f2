"""A shard's rows, added up: what partial results need, so that nobody reads the rows for them."""

from collections.abc import Iterable

from pydantic import BaseModel

from fend.audit import AuditSpec, Row
from fend.audit.report import Share
from fend.audit.rows import AttackRow, CleanRow, SkippedRow
from fend.threat import Knowledge


class Tally(BaseModel, frozen=True, extra="forbid"):
    """Counts of images. An image's rows are all in one shard, so tallies can be summed."""

    n: int = 0
    clean: int = 0
    """Answered right as they are."""
    held: int = 0
    """Answered right as they are and under every attack of every level."""
    held_by_knowledge: dict[Knowledge, int] = {}
    """Answered right as they are and under every attack of the level."""

    def __add__(self, other: "Tally") -> "Tally":
        ours, theirs = self.held_by_knowledge, other.held_by_knowledge
        return Tally(
            n=self.n + other.n,
            clean=self.clean + other.clean,
            held=self.held + other.held,
            held_by_knowledge={
                level: ours.get(level, 0) + theirs.get(level, 0) for level in ours | theirs
            },
        )


class PartialResult(BaseModel, frozen=True):
    """The worst case over the images done so far, as the report will count it."""

    n: int
    clean: Share
    worst_case: Share
    worst_case_by_knowledge: dict[Knowledge, Share]


def tally_of(spec: AuditSpec, rows: Iterable[Row]) -> Tally:
    """Count the images of a shard by its rows."""
    n = 0
    right: set[int] = set()
    lost: dict[Knowledge, set[int]] = {level: set() for level in spec.knowledge}
    for row in rows:
        if isinstance(row, CleanRow):
            n += 1
            if row.answer == row.label:
                right.add(row.index)
        elif isinstance(row, SkippedRow) or (
            isinstance(row, AttackRow) and row.answer != row.label
        ):
            lost[row.knowledge].add(row.index)
    return Tally(
        n=n,
        clean=len(right),
        held=len(right.difference(*lost.values())),
        held_by_knowledge={level: len(right - fallen) for level, fallen in lost.items()},
    )


def partial_result(tally: Tally) -> PartialResult:
    """A tally of one image or more as shares with their intervals."""
    return PartialResult(
        n=tally.n,
        clean=Share.of(tally.clean, tally.n),
        worst_case=Share.of(tally.held, tally.n),
        worst_case_by_knowledge={
            level: Share.of(held, tally.n) for level, held in tally.held_by_knowledge.items()
        },
    )
