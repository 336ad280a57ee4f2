"""An audit's work: every shard is a pure function of its arguments."""

import base64
from collections import defaultdict
from collections.abc import Callable, Collection

import torch
from torch import Tensor

from fend.audit.plan import Key
from fend.audit.rows import CleanRow, ExampleRow, Row, SkippedRow
from fend.audit.work.batch import Batch
from fend.audit.work.curve import curve_rows
from fend.audit.work.judge import Judged, judge, seeded
from fend.audit.work.line import run_line
from fend.audit.work.opened import OpenAudit
from fend.audit.work.probes import probe_rows
from fend.audit.work.shards import Shard
from fend.images import encode_png
from fend.pipeline import Defence
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
    clean = judge(opened.bundle.defence, batch.images, opened.randomised)
    right = batch.right(clean)
    rows = _clean_rows(batch, clean)
    # The images that the lines of each level have broken so far.
    broken: dict[Knowledge, set[int]] = defaultdict(set)
    for key in opened.plan.lines:
        knowledge, _ = key
        stop()
        tried = batch
        if opened.spec.cascade:
            tried = batch.only(set(batch.indices) - broken[knowledge])
            rows += _skipped_rows(batch.only(broken[knowledge]), key)
        line = run_line(opened, tried, key, shard.number, stop)
        wrong = set(tried.indices) - tried.right(line.judged)
        broken[knowledge] |= wrong
        rows += line.rows
        shown = shard.shown | (shard.shown_if_fooled & right & wrong)
        rows += _example_rows(opened.bundle.defence, tried, line.adversarial, shown, key)
    holding = right - broken[Knowledge.WHITE_BOX]
    rows += probe_rows(opened, batch.only(shard.probed), holding, stop)
    rows += curve_rows(opened, batch.only(shard.on_curve), stop)
    return rows


def _clean_rows(batch: Batch, clean: list[Judged]) -> list[Row]:
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


def _skipped_rows(batch: Batch, key: Key) -> list[Row]:
    return [
        SkippedRow(index=index, label=label, knowledge=key[0], attack=key[1])
        for index, label in zip(batch.indices, batch.labels.tolist(), strict=True)
    ]


def _example_rows(
    defence: Defence, batch: Batch, adversarial: Tensor, shown: Collection[int], key: Key
) -> list[Row]:
    """Images of a line that are in `shown`: before, after, and as the denoiser sees them."""
    places = [place for place, index in enumerate(batch.indices) if index in shown]
    if not places:
        return []
    clean, attacked = batch.images[places], adversarial[places]
    with torch.no_grad():
        denoised = torch.nan_to_num(defence.denoiser(attacked)).clamp(0.0, 1.0)
    return [
        ExampleRow(
            index=batch.indices[place],
            knowledge=key[0],
            attack=key[1],
            clean_png=_png(clean[row]),
            adversarial_png=_png(attacked[row]),
            denoised_png=_png(denoised[row]),
        )
        for row, place in enumerate(places)
    ]


def _png(pixels: Tensor) -> str:
    return base64.b64encode(encode_png(pixels)).decode()
