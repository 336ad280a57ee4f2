"""The rows of an audit by what they are about, checked for being whole."""

from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from fend.audit.plan import Key, Plan
from fend.audit.rows.kinds import (
    AttackRow,
    CleanRow,
    CostRow,
    CurveRow,
    ExampleRow,
    Probe,
    ProbeRow,
    Row,
    ServedRow,
    SkippedRow,
    Source,
)
from fend.audit.spec import AuditSpec
from fend.errors import Invalid
from fend.threat import Knowledge

_R = TypeVar("_R", CleanRow, AttackRow, SkippedRow, CurveRow, ProbeRow, ExampleRow, ServedRow)


def rows_invalid(message: str) -> Invalid:
    """The error of rows that are missing, doubled, or of another audit."""
    return Invalid(message, code="audit_rows_invalid")


@dataclass(frozen=True)
class Table:
    """An audit's rows; images, by their places in the data set, in ascending order."""

    plan: Plan
    source: Source
    clean: Mapping[int, CleanRow]
    lines: Mapping[Key, Mapping[int, AttackRow]]
    """Rows in the order of the plan; without the images that were skipped."""
    skipped: Mapping[Key, Collection[int]]
    costs: Mapping[Key, Sequence[CostRow]]
    curve: Mapping[float, Mapping[int, CurveRow]]
    """Rows by ascending epsilon."""
    probes: Mapping[Probe, Mapping[int, ProbeRow]]
    """Empty for a probe that did not run."""
    examples: Mapping[Key, Mapping[int, ExampleRow]]
    served: Mapping[Key, Mapping[int, ServedRow]]

    @classmethod
    def of(cls, spec: AuditSpec, source: Source, rows: Iterable[Row]) -> "Table":
        """Sort the rows, whatever order they come in.

        Raises:
            Invalid (`audit_rows_invalid`): an image lacks a row, has one twice, or one that does
                not belong.
        """
        plan = Plan.of(spec, source.randomised)
        keys = tuple(plan.lines)
        clean: dict[int, CleanRow] = {}
        lines: dict[Key, dict[int, AttackRow]] = {key: {} for key in keys}
        skipped: dict[Key, dict[int, SkippedRow]] = {key: {} for key in keys}
        costs: dict[Key, list[CostRow]] = {key: [] for key in keys}
        curve: dict[float, dict[int, CurveRow]] = {epsilon: {} for epsilon in spec.epsilons}
        probes: dict[Probe, dict[int, ProbeRow]] = {probe: {} for probe in Probe}
        examples: dict[Key, dict[int, ExampleRow]] = {key: {} for key in keys}
        served: dict[Key, dict[int, ServedRow]] = {key: {} for key in keys}
        for row in rows:
            try:
                match row:
                    case CleanRow():
                        _add(clean, row)
                    case AttackRow():
                        _add(lines[row.knowledge, row.attack], row)
                    case SkippedRow():
                        _add(skipped[row.knowledge, row.attack], row)
                    case CostRow():
                        costs[row.knowledge, row.attack].append(row)
                    case CurveRow():
                        _add(curve[row.epsilon], row)
                    case ProbeRow():
                        _add(probes[row.probe], row)
                    case ExampleRow():
                        _add(examples[row.knowledge, row.attack], row)
                    case ServedRow():
                        _add(served[row.knowledge, row.attack], row)
            except KeyError as error:
                raise rows_invalid(
                    f"a row of kind {row.kind} is of {error}, which this audit does not have"
                ) from error
        table = cls(
            plan=plan,
            source=source,
            clean=_sorted(clean),
            lines={key: _sorted(lines[key]) for key in keys},
            skipped=skipped,
            costs=costs,
            curve={epsilon: _sorted(curve[epsilon]) for epsilon in sorted(curve)},
            probes={probe: _sorted(probes[probe]) for probe in Probe},
            examples={key: _sorted(examples[key]) for key in keys},
            served={key: _sorted(served[key]) for key in keys},
        )
        table._check()
        return table

    def _check(self) -> None:
        images = self.clean.keys()
        if not images:
            raise rows_invalid("there are no clean rows")
        for key, line in self.lines.items():
            skipped = set(self.skipped[key])
            if line.keys() & skipped or line.keys() | skipped != images:
                raise rows_invalid(f"the line {key} does not have one row for each clean row")
            earlier = [other for other in self.lines if other[0] is key[0] and other[1] < key[1]]
            if skipped & self.held(earlier):
                raise rows_invalid(f"the line {key} skips images that no earlier line broke")
            if not (self.examples[key].keys() | self.served[key].keys()) <= line.keys():
                raise rows_invalid(f"the line {key} shows images that it did not attack")
        for part in (*self.curve.values(), *self.probes.values()):
            if not part.keys() <= images:
                raise rows_invalid("a probe or the curve is about an image without clean row")
        if len({frozenset(point) for point in self.curve.values()}) > 1:
            raise rows_invalid("the points of the curve are of different images")

    @property
    def spec(self) -> AuditSpec:
        """The request that the rows answer."""
        return self.plan.spec

    @cached_property
    def right_clean(self) -> frozenset[int]:
        """Images that the pipeline gets right as they are."""
        return right(self.clean)

    def keys_at(self, knowledge: Knowledge) -> list[Key]:
        """The lines of a level."""
        return [key for key in self.lines if key[0] is knowledge]

    def broken(self, keys: Iterable[Key]) -> frozenset[int]:
        """Images whose answer was wrong under one of these lines, whether right clean or not."""
        return frozenset(
            index for key in keys for index, row in self.lines[key].items()
            if row.answer != row.label
        )  # fmt: skip

    def held(self, keys: Iterable[Key]) -> frozenset[int]:
        """The images that are right clean and under each of these lines: the per-sample worst case.

        An average over attacks, or the lowest of their accuracies, would flatter the model: attacks
        break different images. An image that a line skipped had been broken at its level before.
        """
        keys = list(keys)
        skipped = frozenset(index for key in keys for index in self.skipped[key])
        return self.right_clean - self.broken(keys) - skipped


def right(rows: Mapping[int, CleanRow] | Mapping[int, AttackRow]) -> frozenset[int]:
    """Images that the pipeline answers right."""
    return frozenset(index for index, row in rows.items() if row.answer == row.label)


def right_undefended(rows: Mapping[int, CleanRow] | Mapping[int, AttackRow]) -> frozenset[int]:
    """Images that the classifier alone answers right."""
    return frozenset(index for index, row in rows.items() if row.undefended_answer == row.label)


def _add(part: MutableMapping[int, _R], row: _R) -> None:
    if row.index in part:
        raise rows_invalid(f"image {row.index} has more than one row of kind {row.kind}")
    part[row.index] = row


def _sorted(part: Mapping[int, _R]) -> dict[int, _R]:
    return {index: part[index] for index in sorted(part)}
