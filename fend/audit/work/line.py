"""Attacks on a batch: a line of the plan, and those of the curve and the probes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from fend.attacks import AttackResult, AttackSpec, attack
from fend.audit.plan import Key, PlannedLine
from fend.audit.rows import AttackRow, CostRow, Row
from fend.audit.work.attacked import AttackedModel, attacked_model
from fend.audit.work.batch import Batch
from fend.audit.work.judge import Judged, judge
from fend.audit.work.opened import OpenAudit
from fend.threat import ThreatModel


@dataclass(frozen=True)
class Attacked:
    """What a line made of a batch, and what the pipeline answers to it."""

    rows: list[Row]
    adversarial: Tensor
    """float32 (N,C,H,W) in [0, 1]."""
    judged: list[Judged]


def run_line(
    opened: OpenAudit, batch: Batch, key: Key, shard: int, stop: Callable[[], None]
) -> Attacked:
    """Attack `batch`, which may be empty, with a line of the plan."""
    line, (_, number) = opened.plan.lines[key], key
    if not batch.indices:
        return Attacked([_cost(shard, key, 0, 0)], batch.images, [])
    result = attack_batch(opened, batch, line, opened.spec.threat, stop)
    judged = judge(opened.bundle.defence, result.adversarial, opened.randomised)
    rows: list[Row] = [
        AttackRow(
            index=index,
            label=label,
            knowledge=line.knowledge,
            attack=number,
            attack_name=line.asked.name,
            attacked_model_fooled=fooled,
            answer=answer.defended,
            confidence=answer.confidence,
            undefended_answer=answer.undefended,
            undefended_confidence=answer.undefended_confidence,
            distance=distance,
            seen_fooled=seen_fooled,
            zero_gradient=zero_gradient,
            broken_gradient=broken_gradient,
            late_gain=None if math.isnan(late_gain) else late_gain,
        )
        for (
            index, label, answer, fooled, distance, seen_fooled, zero_gradient, broken_gradient,
            late_gain,
        ) in zip(
            batch.indices, batch.labels.tolist(), judged, result.fooled.tolist(),
            result.distance.tolist(), result.seen_fooled.tolist(), result.zero_gradient.tolist(),
            result.broken_gradient.tolist(), result.late_gain.tolist(), strict=True,
        )
    ]  # fmt: skip
    # Each pass that the attack asked for was `samples` passes of the attacked model.
    samples = line.gradient.samples
    rows.append(
        _cost(shard, key, result.forward_passes * samples, result.backward_passes * samples)
    )
    return Attacked(rows, result.adversarial, judged)


def attack_batch(
    opened: OpenAudit,
    batch: Batch,
    line: PlannedLine,
    threat: ThreatModel,
    stop: Callable[[], None],
    *,
    seed: int | None = None,
) -> AttackResult:
    """Attack the model that the line goes for; `seed` None is the audit's."""
    surrogate = None if opened.surrogate is None else opened.surrogate.defence
    return attack(
        line.attack,
        attacked_model(opened.bundle.defence, surrogate, line),
        batch.images,
        batch.labels,
        threat,
        seed=opened.spec.seed if seed is None else seed,
        sample_ids=batch.indices,
        stop=stop,
    )


def worst_answers(
    opened: OpenAudit,
    batch: Batch,
    attackers: Sequence[AttackSpec],
    threat: ThreatModel,
    stop: Callable[[], None],
    *,
    seed: int | None = None,
) -> dict[int, Judged]:
    """The answer on each image of `batch`, by its place, after white-box attacks tried in turn: the
    first one that breaks the image, or else the last. `seed` None is the audit's."""
    found: dict[int, Judged] = {}
    for attacker in attackers:
        if not batch.indices:
            break
        line = opened.plan.line(attacker)
        result = attack_batch(opened, batch, line, threat, stop, seed=seed)
        judged = judge(opened.bundle.defence, result.adversarial, opened.randomised)
        found |= dict(zip(batch.indices, judged, strict=True))
        batch = batch.only(batch.right(judged))
    return found


def undefended_answers(
    opened: OpenAudit,
    batch: Batch,
    attacker: AttackSpec,
    threat: ThreatModel,
    stop: Callable[[], None],
) -> list[int | None]:
    """The classifier's answers where it is attacked alone and for itself."""
    classifier = opened.bundle.defence.classifier
    result = attack(
        attacker,
        AttackedModel(classifier, classifier, opened.plan.line(attacker).gradient.samples),
        batch.images,
        batch.labels,
        threat,
        seed=opened.spec.seed,
        sample_ids=batch.indices,
        stop=stop,
    )
    judged = judge(opened.bundle.defence, result.adversarial, opened.randomised)
    return [item.undefended for item in judged]


def _cost(shard: int, key: Key, forward: int, backward: int) -> CostRow:
    return CostRow(
        shard=shard,
        knowledge=key[0],
        attack=key[1],
        forward_passes=forward,
        backward_passes=backward,
    )
