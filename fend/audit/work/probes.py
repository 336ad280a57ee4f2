"""What the sanity block tries, on some images, apart from the audit's own lines.

The report decides what follows from it; the meaning of each probe is in `rows.Probe`.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fend.attacks import APGD, PGD, AttackSpec, Noise, Objective
from fend.audit.plan import Plan
from fend.audit.rows import Probe, ProbeRow, Row
from fend.audit.work.attacked import REPEAT_TOLERANCE, variation
from fend.audit.work.batch import Batch
from fend.audit.work.judge import judge
from fend.audit.work.line import undefended_answers, worst_answers
from fend.audit.work.opened import OpenAudit
from fend.threat import Knowledge, ThreatModel, sample_seeds

UNBOUNDED_EPSILON = 0.5
"""Epsilon in L-inf that makes any image plain grey."""
UNBOUNDED_STEPS = 100
NOISE_DRAWS = 100
STABLE_DRAWS = 10
STABLE_SHARE = 0.01
"""Share of epsilon that is a tiny random step."""
STABLE_CHANGE = 0.1
"""Relative change of the loss above which it is unstable (Pintor et al. 2021)."""
PROBABILITY_TOLERANCE = 1e-5
PLAIN = PGD(steps=40)
"""Used where the audit has no white-box PGD or APGD line to double."""


def probe_rows(
    opened: OpenAudit, batch: Batch, holding: set[int], stop: Callable[[], None]
) -> list[Row]:
    """Every probe on each image of `batch`.

    `holding` are the images that are answered right, clean and under every white-box line. The
    probes that try to do better than these lines (`more_steps`, `more_restarts`, `noise`) have no
    rows where the audit has no such line; on images that do not hold they have passed.
    """
    if not batch.indices:
        return []
    return [*_of_answers(opened, batch), *_of_attacks(opened, batch, holding, stop)]


def _of_answers(opened: OpenAudit, batch: Batch) -> Iterator[Row]:
    defence, spec = opened.bundle.defence, opened.spec
    for index, value in zip(batch.indices, variation(defence, batch.images).tolist(), strict=True):
        passed = value <= REPEAT_TOLERANCE
        yield ProbeRow(probe=Probe.REPEATED, index=index, passed=passed, value=value)
    with torch.no_grad():
        logits = defence(batch.images)
    for index, is_distribution in zip(batch.indices, _distributions(logits), strict=True):
        yield ProbeRow(probe=Probe.LOGITS, index=index, passed=not is_distribution)
    tiny = ThreatModel(norm=spec.threat.norm, epsilon=STABLE_SHARE * spec.threat.epsilon)
    loss = _margin(logits, batch.labels)
    change = torch.zeros_like(loss)
    for draw in range(STABLE_DRAWS):
        seeds = sample_seeds(spec.seed, batch.indices, f"probe/stable-{draw}")
        with torch.no_grad():
            moved = defence(tiny.random_start(batch.images, seeds))
        change += (_margin(moved, batch.labels) - loss).abs() / STABLE_DRAWS
    relative = (change / loss.abs().clamp_min(1.0)).tolist()
    for index, value in zip(batch.indices, relative, strict=True):
        known = value if math.isfinite(value) else None
        yield ProbeRow(
            probe=Probe.STABLE,
            index=index,
            passed=known is not None and known <= STABLE_CHANGE,
            value=known,
        )


def _of_attacks(
    opened: OpenAudit, batch: Batch, holding: set[int], stop: Callable[[], None]
) -> Iterator[Row]:
    spec = opened.spec
    norm = spec.threat.norm
    label_of = dict(zip(batch.indices, batch.labels.tolist(), strict=True))

    clean = judge(opened.bundle.defence, batch.images, opened.randomised)
    nothing = ThreatModel(norm=norm, epsilon=0)
    unmoved = worst_answers(opened, batch, [PGD(steps=1)], nothing, stop)
    for index, answer in zip(batch.indices, clean, strict=True):
        passed = unmoved[index].defended == answer.defended
        yield ProbeRow(probe=Probe.EPSILON_ZERO, index=index, passed=passed)

    # The L2 equivalent of an L-inf ball: the distance to its corners.
    pixels = batch.images[0].numel()
    wide = UNBOUNDED_EPSILON * (1.0 if norm == "linf" else math.sqrt(pixels))
    attackers = [
        PGD(steps=UNBOUNDED_STEPS, gradient=way) for way in opened.plan.white_box_gradients
    ]
    anything = ThreatModel(norm=norm, epsilon=wide)
    unbounded = worst_answers(opened, batch, attackers, anything, stop)
    for index, answer in unbounded.items():
        passed = answer.defended != label_of[index]
        yield ProbeRow(probe=Probe.UNBOUNDED, index=index, passed=passed)

    alone = undefended_answers(opened, batch, PLAIN, spec.threat, stop)
    for index, undefended in zip(batch.indices, alone, strict=True):
        passed = undefended != label_of[index]
        yield ProbeRow(probe=Probe.UNDEFENDED, index=index, passed=passed)

    if Knowledge.WHITE_BOX not in spec.knowledge:
        return
    lines = attacks_to_outdo(opened.plan)
    stronger: list[tuple[Probe, list[AttackSpec], int]] = [
        (Probe.MORE_STEPS, [with_twice_the_steps(item) for item in lines], spec.seed),
        # With another seed every random start is a further one.
        (Probe.MORE_RESTARTS, [start for item in lines for start in _starts(item)], spec.seed + 1),
        (Probe.NOISE, [Noise(draws=NOISE_DRAWS)], spec.seed),
    ]
    for probe, tried, seed in stronger:
        left = batch.only(holding)
        found = worst_answers(opened, left, tried, spec.threat, stop, seed=seed)
        for index in batch.indices:
            passed = index not in found or found[index].defended == label_of[index]
            yield ProbeRow(probe=probe, index=index, passed=passed)


def attacks_to_outdo(plan: Plan) -> list[PGD | APGD]:
    """The white-box attacks whose budget is doubled: the first for each way to take the gradient
    and to start."""
    first: dict[object, PGD | APGD] = {}
    for attacker in plan.white_box:
        if isinstance(attacker, (PGD, APGD)):
            first.setdefault((attacker.gradient, _starts_at_random(attacker)), attacker)
    return list(first.values()) or [PLAIN]


def _starts_at_random(attacker: PGD | APGD) -> bool:
    return isinstance(attacker, APGD) or attacker.random_start


def with_twice_the_steps(attacker: PGD | APGD) -> PGD | APGD:
    return attacker.model_copy(update={"steps": 2 * attacker.steps})


def _starts(attacker: PGD | APGD) -> tuple[PGD | APGD, ...]:
    """The line from other starts: random ones, and the image itself.

    A model that has learned from random starts only may have a gradient that misleads just there.
    """
    there = PGD(
        objective=attacker.objective,
        gradient=attacker.gradient,
        steps=attacker.steps,
        random_start=False,
    )
    if isinstance(attacker, APGD):
        return attacker, there
    return attacker.model_copy(update={"random_start": True}), there


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    return Objective(loss="margin").values(logits, labels)


def _distributions(logits: Tensor) -> list[bool]:
    """Whether each row could be probabilities, which losses would take for logits."""
    low, high = logits.amin(1), logits.amax(1)
    in_range = (low >= -PROBABILITY_TOLERANCE) & (high <= 1 + PROBABILITY_TOLERANCE)
    sums_to_one = (logits.sum(1) - 1).abs() <= PROBABILITY_TOLERANCE
    flags: list[bool] = (in_range & sums_to_one).tolist()
    return flags
