"""An audit's work: every shard is a pure function of its arguments."""

from collections import defaultdict
from collections.abc import Callable

from fend.audit.answers import Answer, answers
from fend.audit.batch import Batch
from fend.audit.curve import curve_rows
from fend.audit.examples import example_rows
from fend.audit.levels import pairs
from fend.audit.line import run_line
from fend.audit.opened import OpenAudit
from fend.audit.probes import probe_rows
from fend.audit.rows import CleanRow, Row, SkippedRow
from fend.audit.seeded import seeded
from fend.audit.shards import Shard
from fend.threat import Knowledge


def run_shard(
    opened: OpenAudit, shard: Shard, stop: Callable[[], None] = lambda: None
) -> list[Row]:
    """Attack a shard's images at every level of knowledge and judge them on the whole pipeline;
    then the probes and the curve, on those images that have them.

    An image's rows depend on the seed and its place in the data set, not on the shard it is in
    (but for float rounding, and for models that answer at random). `stop` is called between attack
    steps and raises to cancel.

    Raises:
        Invalid (`attack_invalid`): an attack that cannot work with this model.
    """
    with seeded(opened.spec.seed, f"shard/{shard.number}", opened.device):
        return _run(opened, shard, stop)


def _run(opened: OpenAudit, shard: Shard, stop: Callable[[], None]) -> list[Row]:
    batch = Batch.of(opened, shard.indices)
    clean = answers(opened.bundle.defence, batch.images, opened.randomised)
    right = batch.right(clean)
    rows = _clean_rows(batch, clean)
    # The images that the lines of each level have broken so far.
    broken: dict[Knowledge, set[int]] = defaultdict(set)
    for knowledge, number in pairs(opened.spec):
        stop()
        tried = batch
        if opened.spec.cascade:
            tried = batch.only(set(batch.indices) - broken[knowledge])
            rows += _skipped_rows(batch.only(broken[knowledge]), knowledge, number)
        line = run_line(opened, tried, knowledge, number, shard.number, stop)
        wrong = set(tried.indices) - tried.right(line.answers)
        broken[knowledge] |= wrong
        rows += line.rows
        shown = shard.shown | (shard.shown_if_fooled & right & wrong)
        rows += example_rows(
            opened.bundle.defence, tried, line.adversarial, shown, knowledge, number
        )
    holding = right - broken[Knowledge.WHITE_BOX]
    rows += probe_rows(opened, batch.only(shard.probed), holding, stop)
    rows += curve_rows(opened, batch.only(shard.on_curve), stop)
    return rows


def _clean_rows(batch: Batch, clean: list[Answer]) -> list[Row]:
    return [
        CleanRow(
            index=index,
            label=label,
            answer=answer.defended,
            confidence=answer.confidence,
            undefended_answer=answer.undefended,
            undefended_confidence=answer.undefended_confidence,
        )
        for index, label, answer in zip(batch.indices, batch.labels.tolist(), clean, strict=True)
    ]


def _skipped_rows(batch: Batch, knowledge: Knowledge, number: int) -> list[Row]:
    return [
        SkippedRow(index=index, label=label, knowledge=knowledge, attack=number)
        for index, label in zip(batch.indices, batch.labels.tolist(), strict=True)
    ]
