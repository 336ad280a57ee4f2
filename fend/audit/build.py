"""From raw rows to a report. Nothing here runs a model: the same rows give the same bytes."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from fend.audit.report import (
    ClassLine,
    Clean,
    Identity,
    Line,
    Report,
    Share,
    Threat,
    attack_title,
    percent,
    threat_text,
)
from fend.audit.rows import AttackRow, CleanRow, CostRow, Row
from fend.audit.run import GRADIENT_THROUGH, attack_at
from fend.audit.source import Source
from fend.audit.spec import AuditSpec
from fend.audit.statistics import wilson_interval
from fend.errors import FendError
from fend.threat import Knowledge


class AuditRowsInvalid(FendError):
    """Rows are missing, doubled, or of another audit: a report of them would be wrong."""

    code: ClassVar[str] = "audit_rows_invalid"


def build_report(spec: AuditSpec, source: Source, rows: Iterable[Row]) -> Report:
    """Count. The order of `rows` does not matter.

    Raises:
        AuditRowsInvalid: an image lacks a row, or has one twice; there is no image at all.
    """
    table = _Table.of(spec, rows)
    held_by_knowledge = {
        knowledge: _held_under(table, [key for key in table.lines if key[0] is knowledge])
        for knowledge in spec.knowledge
    }
    held = _held_under(table, list(table.lines))
    lines = tuple(_line(spec, table, key) for key in table.lines)
    worst_case_by_knowledge = {
        knowledge: _share(len(kept), len(table.clean))
        for knowledge, kept in held_by_knowledge.items()
    }
    worst_case = _share(len(held), len(table.clean))
    return Report(
        verdict=_verdict(spec, worst_case),
        identity=Identity(
            **source.model_dump(),
            index_digest=_digest(table.clean),
            n=len(table.clean),
            seed=spec.seed,
            forward_passes=sum(line.forward_passes for line in lines),
            backward_passes=sum(line.backward_passes for line in lines),
        ),
        threat=Threat(
            norm=spec.threat.norm,
            epsilon=spec.threat.epsilon,
            epsilon_255=round(spec.threat.epsilon * 255, 6),
        ),
        clean=Clean(
            defended=_share(len(_right(table.clean.values())), len(table.clean)),
            undefended=_share(len(_right_undefended(table.clean.values())), len(table.clean)),
        ),
        worst_case=worst_case,
        worst_case_by_knowledge=worst_case_by_knowledge,
        lines=lines,
        classes=_classes(source, table, held),
        not_finite=_not_finite(table.clean.values()) + sum(line.not_finite for line in lines),
        spec=spec,
    )


_Key = tuple[Knowledge, int]
_Answered = CleanRow | AttackRow


@dataclass(frozen=True)
class _Table:
    """The rows by what they are about; images in ascending order."""

    clean: dict[int, CleanRow]
    lines: dict[_Key, dict[int, AttackRow]]
    costs: dict[_Key, list[CostRow]]

    @classmethod
    def of(cls, spec: AuditSpec, rows: Iterable[Row]) -> "_Table":
        clean: list[CleanRow] = []
        attacked: dict[_Key, list[AttackRow]] = defaultdict(list)
        costs: dict[_Key, list[CostRow]] = defaultdict(list)
        for row in rows:
            if isinstance(row, CleanRow):
                clean.append(row)
            elif isinstance(row, AttackRow):
                attacked[row.knowledge, row.attack].append(row)
            else:
                costs[row.knowledge, row.attack].append(row)
        indices = sorted(row.index for row in clean)
        keys = [(know, number) for know in spec.knowledge for number in range(len(spec.attacks))]
        if not indices or len(set(indices)) < len(indices):
            raise AuditRowsInvalid("there are no clean rows, or some images have more than one")
        if set(attacked) != set(keys):
            raise AuditRowsInvalid(f"the rows are of the lines {sorted(attacked)}, not {keys}")
        for key in keys:
            if sorted(row.index for row in attacked[key]) != indices:
                raise AuditRowsInvalid(f"the line {key} does not have one row for each clean row")
        return cls(
            {row.index: row for row in sorted(clean, key=lambda row: row.index)},
            {
                key: {row.index: row for row in sorted(attacked[key], key=lambda row: row.index)}
                for key in keys
            },
            costs,
        )


def _right(rows: Iterable[_Answered]) -> set[int]:
    return {row.index for row in rows if row.answer == row.label}


def _right_undefended(rows: Iterable[_Answered]) -> set[int]:
    return {row.index for row in rows if row.undefended_answer == row.label}


def _not_finite(rows: Iterable[_Answered]) -> int:
    return sum(row.answer is None or row.undefended_answer is None for row in rows)


def _held_under(table: _Table, keys: Sequence[_Key]) -> set[int]:
    """The images that are right clean and under each of these lines: the per-sample worst case.

    An average over attacks, or the lowest of their accuracies, would flatter the model: attacks
    break different images.
    """
    held = _right(table.clean.values())
    for key in keys:
        held &= _right(table.lines[key].values())
    return held


def _line(spec: AuditSpec, table: _Table, key: _Key) -> Line:
    knowledge, number = key
    rows = list(table.lines[key].values())
    clean = table.clean.values()
    held_undefended = _right_undefended(clean) & _right_undefended(rows)
    return Line(
        knowledge=knowledge,
        gradient_through=GRADIENT_THROUGH[knowledge],
        title=attack_title(spec.attacks[number]),
        attack=attack_at(spec.attacks[number], knowledge),
        defended=_share(len(_held_under(table, [key])), len(rows)),
        undefended=_share(len(held_undefended), len(rows)),
        attacked_model_fooled=sum(row.attacked_model_fooled for row in rows),
        mean_distance=math.fsum(row.distance for row in rows) / len(rows),
        max_distance=max(row.distance for row in rows),
        forward_passes=sum(row.forward_passes for row in table.costs[key]),
        backward_passes=sum(row.backward_passes for row in table.costs[key]),
        not_finite=_not_finite(rows),
    )


def _classes(source: Source, table: _Table, held: set[int]) -> tuple[ClassLine, ...]:
    indices_by_class = defaultdict(set)
    for row in table.clean.values():
        indices_by_class[row.label].add(row.index)
    right = _right(table.clean.values())
    return tuple(
        ClassLine(
            index=index,
            label=source.label_names[index],
            clean=_share(len(indices & right), len(indices)),
            worst_case=_share(len(indices & held), len(indices)),
        )
        for index, indices in sorted(indices_by_class.items())
    )


def _share(correct: int, n: int) -> Share:
    low, high = wilson_interval(correct, n)
    return Share(correct=correct, n=n, accuracy=correct / n, low=low, high=high)


def _digest(indices: Iterable[int]) -> str:
    text = ",".join(str(index) for index in sorted(indices))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _verdict(spec: AuditSpec, worst_case: Share) -> str:
    """One honest sentence. Sanity checks, once there are any, can turn it into `unreliable`."""
    sentence = (
        f"An upper bound on robustness, not a proof: of {worst_case.n} images, "
        f"{percent(worst_case.accuracy)} (95 % interval {percent(worst_case.low)} to "
        f"{percent(worst_case.high)}) are answered right clean and under every attack tried here "
        f"({threat_text(spec.threat.norm, spec.threat.epsilon)}); a stronger attack can only lower "
        "this number."
    )
    if Knowledge.WHITE_BOX not in spec.knowledge:
        sentence += " No attacker here knew the denoiser: add white_box before relying on it."
    return sentence
