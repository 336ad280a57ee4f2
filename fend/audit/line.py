"""One line of an audit: one attack at one level of knowledge, judged on the whole pipeline."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fend.attacks import AttackResult, AttackSpec, attack
from fend.audit.answers import Answer, answers
from fend.audit.attacked import attacked_model
from fend.audit.batch import Batch
from fend.audit.levels import attack_at, gradient_of
from fend.audit.opened import OpenAudit
from fend.audit.rows import AttackRow, CostRow, Row
from fend.threat import Knowledge, ThreatModel


@dataclass(frozen=True)
class Line:
    """What an attack made of a batch, and what the pipeline says of it."""

    rows: list[Row]
    adversarial: Tensor
    """float32 (N,C,H,W) in [0, 1]."""
    answers: list[Answer]


def run_line(
    opened: OpenAudit,
    batch: Batch,
    knowledge: Knowledge,
    number: int,
    shard: int,
    stop: Callable[[], None],
) -> Line:
    """Attack `batch`, which may be empty, with the attack `number` of the spec."""
    attacker = opened.spec.attacks[number]
    samples = gradient_of(attacker).samples
    if not batch.indices:
        return Line([_cost(shard, knowledge, number, 0, 0)], batch.images, [])
    result = attack_batch(opened, batch, attacker, knowledge, opened.spec.threat, stop)
    judged = answers(opened.bundle.defence, result.adversarial, opened.randomised)
    rows: list[Row] = [
        AttackRow(
            index=index,
            label=label,
            knowledge=knowledge,
            attack=number,
            attack_name=attacker.name,
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
    forward, backward = result.forward_passes * samples, result.backward_passes * samples
    rows.append(_cost(shard, knowledge, number, forward, backward))
    return Line(rows, result.adversarial, judged)


def attack_batch(
    opened: OpenAudit,
    batch: Batch,
    attacker: AttackSpec,
    knowledge: Knowledge,
    threat: ThreatModel,
    stop: Callable[[], None],
    *,
    seed: int | None = None,
) -> AttackResult:
    """Attack the model that the attacker at `knowledge` knows; `seed` None is the audit's."""
    surrogate = None if opened.surrogate is None else opened.surrogate.defence
    model = attacked_model(opened.bundle.defence, surrogate, knowledge, gradient_of(attacker))
    return attack(
        attack_at(attacker, knowledge, opened.randomised),
        model,
        batch.images,
        batch.labels,
        threat,
        seed=opened.spec.seed if seed is None else seed,
        sample_ids=batch.indices,
        stop=stop,
    )


def _cost(shard: int, knowledge: Knowledge, number: int, forward: int, backward: int) -> CostRow:
    return CostRow(
        shard=shard,
        knowledge=knowledge,
        attack=number,
        forward_passes=forward,
        backward_passes=backward,
    )
