"""Sanity checks of what happened inside the attacks: gradients, lost successes, unfinished runs."""

from collections import defaultdict

from fend.audit.rows import AttackRow, Probe
from fend.audit.rows.table import Table
from fend.audit.sanity.finding import (
    TOO_FEW,
    Check,
    Finding,
    check,
    count,
    not_tried,
    strongest_level,
    within,
)

NO_GRADIENT_ATTACK = "no attack here takes a gradient"
LATE_GAIN = 0.1
"""Of the rise of the loss, in the last tenth of the steps: more is faster than on average."""
UNFINISHED_SHARE = 0.5
"""Of the images that hold."""


def unfinished(row: AttackRow) -> bool:
    """Whether the attack was still gaining when its steps ran out."""
    return row.late_gain is not None and row.late_gain > LATE_GAIN


def zero_gradients(table: Table) -> Finding:
    """Every image that holds has been attacked along some gradient."""
    level = strongest_level(table)
    rows_by_image = _gradient_rows(table)
    if level is None or not rows_by_image:
        return not_tried(NO_GRADIENT_ATTACK)
    held = table.held(table.keys_at(level))
    without = [
        index for index, rows in rows_by_image.items()
        if index in held and all(row.zero_gradient for row in rows)
    ]  # fmt: skip
    n = len(rows_by_image)
    text = f"{count(len(without), 'image')} of {n} held at {level} and never had a gradient"
    return within(len(without), 0.5, n, text)


def broken_gradients(table: Table) -> Finding:
    """No gradient was NaN or infinite."""
    rows = [row for key, line in table.lines.items() for row in line.values()
            if table.plan.lines[key].takes_gradient]  # fmt: skip
    if not rows:
        return not_tried(NO_GRADIENT_ATTACK)
    broken = sum(row.broken_gradient for row in rows)
    text = f"NaN or infinite gradients in {broken} of {len(rows)} attacked images."
    return Finding(not broken, text)


def silent_successes(table: Table) -> Finding:
    """No attack lost an adversarial image that it had found."""
    level = strongest_level(table)
    if level is None:
        return not_tried(NO_GRADIENT_ATTACK)
    if table.source.randomised:
        return not_tried("the model answers at random, so that a find may have been luck")
    keys = table.keys_at(level)
    held = table.held(keys)
    lost = {
        index for key in keys for index, row in table.lines[key].items()
        if index in held and row.seen_fooled and not row.attacked_model_fooled
    }  # fmt: skip
    n = len(table.clean)
    text = f"{count(len(lost), 'image')} of {n} held at {level} though an attack had seen a success"
    return within(len(lost), 0.2, n, text)


def finished(table: Table) -> Finding:
    """The attacks had stopped gaining when their steps ran out."""
    level = strongest_level(table)
    if level is None:
        return not_tried(NO_GRADIENT_ATTACK)
    held = table.held(table.keys_at(level))
    runs = {
        index: [row for row in rows if row.late_gain is not None]
        for index, rows in _gradient_rows(table).items()
        if index in held
    }
    runs = {index: rows for index, rows in runs.items() if rows}
    if not held:
        return Finding(True, f"No image held at {level}, so that there was nothing to finish.")
    if not runs:
        return not_tried(f"no attack at {level} made ten steps or more on an image that held")
    if len(table.clean) < 2:
        return not_tried(TOO_FEW)
    gaining = sum(all(unfinished(row) for row in rows) for rows in runs.values())
    text = (
        f"On {gaining} of {count(len(runs), 'image')} that held at {level}, more than "
        f"{LATE_GAIN:.0%} of the rise came in the last tenth of the steps of every attack "
        f"(allowed: {UNFINISHED_SHARE:.0%})."
    )
    return Finding(gaining <= max(1, UNFINISHED_SHARE * len(runs)), text)


def deterministic(table: Table) -> Finding:
    """The same image gets the same answer, or the attacks average over the randomness."""
    rows = table.probes[Probe.REPEATED]
    if not rows:
        if not table.source.randomised:
            return Finding(True, "Repeated passes gave the same logits when the audit began.")
        text = "Repeated passes gave other logits."
    else:
        changed = [row for row in rows.values() if not row.passed]
        if not changed and not table.source.randomised:
            return Finding(True, f"Five passes gave the same logits on all of {len(rows)} images.")
        largest = max((row.value or 0.0 for row in rows.values()), default=0.0)
        text = (
            f"Five passes gave other logits on {len(changed)} of {count(len(rows), 'image')} "
            f"(largest difference {largest:.2g})."
        )
    level = strongest_level(table)
    lines = table.plan.lines.values()
    most = max((line.gradient.samples for line in lines if line.knowledge is level), default=1)
    if most > 1:
        return Finding(True, f"{text} Attacks average {most} gradients (EOT).")
    return Finding(False, f"{text} No attack averages over that (EOT).")


def _gradient_rows(table: Table) -> dict[int, list[AttackRow]]:
    """By image: its rows of the lines with a gradient, at the level that knows most."""
    rows_by_image: dict[int, list[AttackRow]] = defaultdict(list)
    level = strongest_level(table)
    for key in table.keys_at(level) if level else ():
        if table.plan.lines[key].takes_gradient:
            for index, row in table.lines[key].items():
                rows_by_image[index].append(row)
    return rows_by_image


CHECKS: tuple[Check, ...] = (
    check(
        "gradients are not zero",
        zero_gradients,
        raised_if="images hold whose every gradient was exactly zero",
        means="The attack had no direction to go: the model cuts its gradient off, or is so sure "
        "of itself that the loss has rounded to nothing.",
        do="Use a margin or dlr loss, BPDA where a step of the model has no gradient, and queries.",
    ),
    check(
        "gradients are numbers",
        broken_gradients,
        raised_if="any gradient held NaN or infinity",
        means="A step of the model divides by zero or takes a root of it; the attack goes astray.",
        do="Repair the model's backward pass (a small constant under the root), or use BPDA.",
    ),
    check(
        "nothing found is lost",
        silent_successes,
        raised_if="attacks saw the model fooled, but returned an image that does not fool it",
        means="There are adversarial images that the reported accuracy does not count.",
        do="Let the attack keep its best image (`keep` of pgd) rather than its last one.",
    ),
    check(
        "attacks ran to their end",
        finished,
        raised_if="on many images that hold, the loss was still rising as fast as ever at the end",
        means="The attack was stopped too early; the accuracy is too high.",
        do="Raise `steps`, or the step size.",
    ),
    check(
        "answers repeat, or EOT is used",
        deterministic,
        raised_if="the same image gets other logits each time, and no attack averages over that",
        means="Each gradient is that of another model, so that the attack goes in circles.",
        do="Give the attacks `gradient: {samples: 20}`, more for more randomness.",
    ),
)
