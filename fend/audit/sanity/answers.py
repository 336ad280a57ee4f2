"""Sanity checks of the model's answers, and of whether those of the service are the same."""

from fend.attacks import AttackSpec
from fend.audit.rows import AttackRow, CleanRow, Probe
from fend.audit.rows.statistics import wilson_interval
from fend.audit.rows.table import Table
from fend.audit.sanity.finding import (
    NO_PROBES,
    TOO_FEW,
    Check,
    Finding,
    allowed,
    at_most,
    check,
    count,
    not_tried,
)
from fend.threat import MEASURE_TOLERANCE

UNSTABLE_SHARE = 0.25
"""Of the probed images."""
AGREED_SHARE = 0.9
"""Of the images that were served: rounding to 8 bits turns back some that were only just fooled."""


def epsilon_zero(table: Table) -> Finding:
    """With no room, nothing changes."""
    rows = table.probes[Probe.EPSILON_ZERO]
    changed = {index for index, row in rows.items() if not row.passed}
    curve = table.curve.get(0.0, {})
    changed |= {index for index, row in curve.items() if row.answer != table.clean[index].answer}
    n = len(rows.keys() | curve.keys())
    if not n:
        return not_tried(NO_PROBES)
    text = f"With epsilon 0, {len(changed)} of {count(n, 'answer')} changed"
    if table.source.randomised:  # two draws of the same image may differ
        return Finding(
            len(changed) <= at_most(5, n), f"{text} ({allowed(5, n)}, since they are random)."
        )
    return Finding(not changed, f"{text}.")


def logits(table: Table) -> Finding:
    """The model returns logits, not probabilities."""
    rows = table.probes[Probe.LOGITS]
    if not rows:
        return not_tried(NO_PROBES)
    probabilities = sum(not row.passed for row in rows.values())
    text = f"The outputs on {probabilities} of {count(len(rows), 'image')} are probabilities."
    return Finding(not probabilities, text)


def stable(table: Table) -> Finding:
    """The loss is smooth enough for its gradient to mean something."""
    rows = table.probes[Probe.STABLE]
    if not rows:
        return not_tried(NO_PROBES)
    jumpy, n = sum(not row.passed for row in rows.values()), len(rows)
    if n < 2:
        return not_tried(TOO_FEW)
    text = (
        f"Tiny random steps moved the loss by more than a tenth on {jumpy} of {count(n, 'image')} "
        f"(allowed: {UNSTABLE_SHARE:.0%})."
    )
    return Finding(jumpy <= max(1, UNSTABLE_SHARE * n), text)


def rules_kept(table: Table) -> Finding:
    """Every adversarial image is inside the ball, and every answer is a number."""
    rows = [row for line in table.lines.values() for row in line.values()]
    answered: list[CleanRow | AttackRow] = [*table.clean.values(), *rows]
    epsilon = table.spec.threat.epsilon
    largest = max((row.distance for row in rows), default=0.0)
    unanswered = sum(row.answer is None or row.undefended_answer is None for row in answered)
    text = (
        f"The largest perturbation is {largest:.6g} (epsilon {epsilon:g}); {unanswered} of "
        f"{len(answered)} answers were NaN or infinite."
    )
    return Finding(largest <= epsilon + MEASURE_TOLERANCE and not unanswered, text)


def served(table: Table) -> Finding:
    """What is served answers as what was audited."""
    rows = [row for line in table.served.values() for row in line.values()]
    if not rows:
        return not_tried("no image of this audit was sent through a running service")
    agreed, n = sum(row.answer == row.served_answer for row in rows), len(rows)
    if n < 2:
        return not_tried(TOO_FEW)
    names = sorted({_name(table.spec.attacks[row.attack]) for row in rows})
    text = (
        f"Of {count(n, 'adversarial image')} ({', '.join(names)}), rounded to 8 bits and served as "
        f"PNG, {agreed} got the same answer (needed: {AGREED_SHARE:.0%}, but for chance)."
    )
    return Finding(wilson_interval(agreed, n)[1] >= AGREED_SHARE, text)


def _name(attack: AttackSpec) -> str:
    return attack.name.upper().replace("_", "-")


CHECKS: tuple[Check, ...] = (
    check(
        "epsilon 0 equals clean",
        epsilon_zero,
        raised_if="an attack without any room changes an answer",
        means="The attacked model is not the one that is judged, or it is not in evaluation mode.",
        do="Look for dropout, batch statistics and rounding between the two.",
    ),
    check(
        "outputs are logits",
        logits,
        raised_if="the outputs of the model lie in [0, 1] and sum to one",
        means="Losses are made for logits; on probabilities their gradient is far too small.",
        do="Take the softmax off the end of the model.",
    ),
    check(
        "the loss is stable",
        stable,
        raised_if="tiny random steps move the loss by more than a tenth on many images",
        means="The gradient at a point says little about the next one.",
        do="Average gradients (`gradient: {samples: 20}`), use BPDA, or queries.",
    ),
    check(
        "the rules were kept",
        rules_kept,
        raised_if="a perturbation is larger than epsilon, or an answer is NaN or infinite",
        means="The numbers are not about this threat model, or the model is broken.",
        do="Repair the model's arithmetic; report a perturbation that is too large as a bug.",
    ),
    check(
        "the service answers the same",
        served,
        raised_if=f"fewer than {AGREED_SHARE:.0%} of the served answers are those of the audit",
        means="What is served is not what was audited, or the attacks only just succeed.",
        do="Compare the model versions; check how the service decodes and scales images.",
    ),
)
