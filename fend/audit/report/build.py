"""From raw rows to a report. Nothing here runs a model: the same rows give the same bytes."""

import hashlib
import math
from collections import defaultdict
from collections.abc import Collection, Iterable

from fend.audit.plan import Key
from fend.audit.report.report import (
    ClassLine,
    Clean,
    CurvePoint,
    Example,
    Headline,
    Identity,
    Line,
    Report,
    Served,
    Share,
    Threat,
)
from fend.audit.report.verdict import is_reliable, verdict
from fend.audit.rows import AttackRow, CleanRow, Row, Source
from fend.audit.rows.index_ranges import to_ranges
from fend.audit.rows.table import Table, right_undefended
from fend.audit.sanity import sanity_block
from fend.audit.sanity.gradients import unfinished
from fend.audit.spec import AuditSpec
from fend.threat import Knowledge


def build_report(spec: AuditSpec, source: Source, rows: Iterable[Row]) -> Report:
    """Count. The order of `rows` does not matter.

    Raises:
        Invalid (`audit_rows_invalid`): an image lacks a row, or has one twice; there is no image at
            all; a row is of another audit.
    """
    table = Table.of(spec, source, rows)
    n = len(table.clean)
    held = table.held(table.lines)
    held_at = {level: table.held(table.keys_at(level)) for level in spec.knowledge}
    worst_case = Share.of(len(held), n)
    by_knowledge = {level: Share.of(len(kept), n) for level, kept in held_at.items()}
    white_box = by_knowledge.get(Knowledge.WHITE_BOX)
    headline = Headline(
        knowledge=None if white_box is None else Knowledge.WHITE_BOX,
        accuracy=white_box or worst_case,
    )
    lines = tuple(_line(table, key) for key in table.lines)
    sanity = sanity_block(table)
    reliable = is_reliable(sanity, probed=n > 1 and any(table.probes.values()))
    return Report(
        verdict=verdict(spec.threat, headline, worst_case, sanity, reliable),
        reliable=reliable,
        headline=headline,
        identity=Identity(
            **source.model_dump(),
            indices=to_ranges(table.clean),
            index_digest=_digest(table.clean),
            n=n,
            seed=spec.seed,
            forward_passes=sum(line.forward_passes for line in lines),
            backward_passes=sum(line.backward_passes for line in lines),
        ),
        threat=Threat(
            norm=spec.threat.norm,
            epsilon=spec.threat.epsilon,
            epsilon_255=_in_255(spec.threat.epsilon),
        ),
        clean=Clean(
            defended=Share.of(len(table.right_clean), n),
            undefended=Share.of(len(right_undefended(table.clean)), n),
            mean_confidence=_mean(row.confidence for row in table.clean.values()),
            wrong=to_ranges(table.clean.keys() - table.right_clean),
        ),
        worst_case=worst_case,
        worst_case_by_knowledge=by_knowledge,
        wrong_by_knowledge={
            level: to_ranges(table.clean.keys() - kept) for level, kept in held_at.items()
        },
        lines=lines,
        sanity=sanity,
        curve=_curve(table),
        classes=_classes(table, held),
        served=_served(table),
        examples=_examples(table),
        not_finite=_not_finite(table.clean.values()) + sum(line.not_finite for line in lines),
        spec=spec,
    )


def _line(table: Table, key: Key) -> Line:
    line = table.plan.lines[key]
    rows = list(table.lines[key].values())
    skipped = len(table.skipped[key])
    held = table.held([key])
    held_alone = right_undefended(table.clean) & right_undefended(table.lines[key])
    return Line(
        knowledge=line.knowledge,
        gradient_through=line.gradient_through,
        title=line.title,
        attack=line.attack,
        attacked=len(rows),
        skipped=skipped,
        defended=Share.of(len(held), len(table.clean)),
        undefended=None if skipped else Share.of(len(held_alone), len(rows)),
        wrong=to_ranges(table.clean.keys() - held),
        attacked_model_fooled=sum(row.attacked_model_fooled for row in rows),
        mean_confidence=_mean(row.confidence for row in rows),
        mean_distance=_mean(row.distance for row in rows),
        max_distance=max((row.distance for row in rows), default=None),
        forward_passes=sum(row.forward_passes for row in table.costs[key]),
        backward_passes=sum(row.backward_passes for row in table.costs[key]),
        not_finite=_not_finite(rows),
        silent_successes=sum(row.seen_fooled and not row.attacked_model_fooled for row in rows),
        zero_gradients=sum(row.zero_gradient for row in rows),
        broken_gradients=sum(row.broken_gradient for row in rows),
        unfinished=sum(unfinished(row) for row in rows),
    )


def _classes(table: Table, held: Collection[int]) -> tuple[ClassLine, ...]:
    indices_by_class = defaultdict(set)
    for row in table.clean.values():
        indices_by_class[row.label].add(row.index)
    return tuple(
        ClassLine(
            index=index,
            label=table.source.label_names[index],
            clean=Share.of(len(indices & table.right_clean), len(indices)),
            worst_case=Share.of(len(indices.intersection(held)), len(indices)),
        )
        for index, indices in sorted(indices_by_class.items())
    )


def _curve(table: Table) -> tuple[CurvePoint, ...]:
    points = []
    for epsilon, rows in table.curve.items():
        if rows:
            right = {index for index, row in rows.items() if row.answer == row.label}
            alone = {index for index, row in rows.items() if row.undefended_answer == row.label}
            points.append(
                CurvePoint(
                    epsilon=epsilon,
                    epsilon_255=_in_255(epsilon),
                    defended=Share.of(len(right & table.right_clean), len(rows)),
                    undefended=Share.of(len(alone & right_undefended(table.clean)), len(rows)),
                )
            )
    return tuple(points)


def _served(table: Table) -> Served | None:
    rows = [row for line in table.served.values() for row in line.values()]
    if not rows:
        return None
    broken = [row for row in rows if row.answer != row.label]
    return Served(
        agreed=Share.of(sum(row.answer == row.served_answer for row in rows), len(rows)),
        broken=len(broken),
        still_broken=sum(row.served_answer != row.label for row in broken),
    )


def _examples(table: Table) -> tuple[Example, ...]:
    """At most `spec.examples` images, each at one line: those that were broken first, by the lines
    in turn, then those that held."""
    order = [Knowledge.WHITE_BOX, *reversed(Knowledge)]
    keys = sorted(table.examples, key=lambda key: (order.index(key[0]), -key[1]))
    found: list[tuple[int, Key, int]] = []
    held: list[tuple[int, Key, int]] = []
    for key in keys:
        broken = table.broken([key]) & table.right_clean
        found += [
            (turn, key, i) for turn, i in enumerate(sorted(broken & table.examples[key].keys()))
        ]
        held += [(0, key, i) for i in table.examples[key] if i not in broken]
    chosen: dict[int, Key] = {}
    for _, key, index in (*sorted(found, key=lambda item: item[0]), *held):
        if len(chosen) < table.spec.examples:
            chosen.setdefault(index, key)
    examples = []
    for index, key in chosen.items():
        pictures, row = table.examples[key][index], table.lines[key][index]
        clean = table.clean[index]
        examples.append(
            Example(
                index=index,
                label=row.label,
                knowledge=key[0],
                title=table.plan.lines[key].title,
                clean_png=pictures.clean_png,
                adversarial_png=pictures.adversarial_png,
                denoised_png=pictures.denoised_png,
                clean_answer=clean.answer,
                clean_confidence=clean.confidence,
                answer=row.answer,
                confidence=row.confidence,
                undefended_answer=row.undefended_answer,
                undefended_confidence=row.undefended_confidence,
            )
        )
    return tuple(examples)


def _not_finite(rows: Iterable[CleanRow | AttackRow]) -> int:
    return sum(row.answer is None or row.undefended_answer is None for row in rows)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def _in_255(epsilon: float) -> float:
    return round(epsilon * 255, 6)


def _digest(indices: Iterable[int]) -> str:
    text = ",".join(str(index) for index in sorted(indices))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
