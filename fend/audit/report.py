"""From raw rows to a report. Nothing here runs a model: the same rows give the same bytes."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from fend.attacks import AttackSpec
from fend.audit.rows import AttackRow, CleanRow, CostRow, Row
from fend.audit.run import GRADIENT_THROUGH, attack_at
from fend.audit.source import Source
from fend.audit.spec import AuditSpec
from fend.audit.statistics import wilson_interval
from fend.errors import FendError
from fend.threat import Knowledge, Norm


class AuditRowsInvalid(FendError):
    """Rows are missing, doubled, or of another audit: a report of them would be wrong."""

    code: ClassVar[str] = "audit_rows_invalid"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Identity(Source):
    """`Source`, and what follows from the rows."""

    index_digest: str
    """Of the sorted places in the data set: the same digest, the same images."""
    n: int
    seed: int
    forward_passes: int
    backward_passes: int


class Threat(_Part):
    norm: Norm
    epsilon: float
    epsilon_255: float
    """epsilon in steps of an 8-bit pixel."""


class Share(_Part):
    """So many of n, with a 95 % Wilson interval."""

    correct: int
    n: int
    accuracy: float
    low: float
    high: float


class Clean(_Part):
    defended: Share
    undefended: Share


class Line(_Part):
    """One attack at one knowledge level.

    An image counts as correct when the answer is right on it both clean and attacked.
    """

    knowledge: Knowledge
    gradient_through: str
    title: str
    attack: AttackSpec
    """As it ran, which may be with other options than asked: see `attack_at`."""
    defended: Share
    """The whole pipeline: what is served."""
    undefended: Share
    """The classifier alone, on the same adversarial images."""
    attacked_model_fooled: int
    mean_distance: float
    max_distance: float
    forward_passes: int
    backward_passes: int
    not_finite: int
    """Answers with NaN or infinity; they count as wrong."""


class ClassLine(_Part):
    index: int
    label: str
    clean: Share
    worst_case: Share


class Report(_Part):
    format: Literal["fend-audit/1"] = "fend-audit/1"
    verdict: str
    identity: Identity
    threat: Threat
    clean: Clean
    worst_case: Share
    """Images that are answered right clean and under every attack of every knowledge level."""
    worst_case_by_knowledge: dict[Knowledge, Share]
    lines: tuple[Line, ...]
    classes: tuple[ClassLine, ...]
    not_finite: int
    spec: AuditSpec


class Timing(_Part):
    """When it ran; UTC. Kept out of `Report`, so that equal audits have equal reports."""

    started_at: datetime
    finished_at: datetime
    wall_time_s: float


class AuditDocument(_Part):
    """A finished audit, as `fend audit --format json` and the service hand it out."""

    result: Report
    timing: Timing


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


def attack_title(attack: AttackSpec) -> str:
    """A short name, such as PGD-100 or PGD-40x5 (restarts)."""
    title = attack.name.upper()
    steps, restarts = getattr(attack, "steps", None), getattr(attack, "restarts", 1)
    if steps is not None:
        title += f"-{steps}" + (f"x{restarts}" if restarts > 1 else "")
    return title


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


def percent(share: float) -> str:
    """Such as 43.0 %."""
    return f"{100 * share:.1f} %"


def threat_text(norm: Norm, epsilon: float) -> str:
    """Such as "Linf, epsilon 0.2 = 51/255"."""
    return f"{norm.capitalize()}, epsilon {epsilon:g} = {epsilon * 255:g}/255"
