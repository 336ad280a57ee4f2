"""Sanity checks of an attack's budget: more room, steps or restarts must not find less."""

from fend.audit.rows import Probe
from fend.audit.rows.statistics import percent, wilson_interval
from fend.audit.rows.table import Table, right_undefended
from fend.audit.sanity.finding import (
    ADAPT,
    MASKED,
    NO_PROBES,
    NOISE_POINTS,
    TOO_FEW,
    Check,
    Finding,
    allowed,
    at_most,
    check,
    count,
    not_tried,
    within,
)
from fend.threat import Knowledge

NO_WHITE_BOX = "white_box is not among the levels"
TELLING_EPSILON = {"linf": 0.1, "l2": 1.5}
"""From here on an attack on an ordinary classifier breaks some images, whatever the data."""
HARMLESS = 0.02
"""Share of images that hardly any noise stays under: an attack that breaks no more did nothing."""


def monotone(table: Table) -> Finding:
    """More room for the attacker, no higher accuracy."""
    points = {epsilon: rows for epsilon, rows in table.curve.items() if rows}
    if len(points) < 2:
        return not_tried("there is no curve (epsilons holds fewer than two)")
    held = {
        epsilon: sum(
            row.answer == row.label and index in table.right_clean for index, row in rows.items()
        )
        for epsilon, rows in points.items()
    }
    n = len(next(iter(points.values())))
    epsilons = list(held)
    rise, low, high = max(
        (held[high] - held[low], low, high)
        for place, low in enumerate(epsilons)
        for high in epsilons[place + 1 :]
    )
    curve = ", ".join(f"{percent(held[epsilon] / n)} at {epsilon:g}" for epsilon in epsilons)
    text = f"{curve} ({count(n, 'image')})."
    if rise <= 0:
        return Finding(True, f"Accuracy never rises: {text}")
    if n < 2:
        return not_tried(TOO_FEW)
    where = f"From {low:g} to {high:g} it rises by {count(rise, 'image')}"
    text = f"{where} ({allowed(NOISE_POINTS, n)}): {text}"
    return Finding(rise <= at_most(NOISE_POINTS, n), text)


def curve_agrees(table: Table) -> Finding:
    """The attack that the curve is made with finds no more than the lines, at the same epsilon."""
    keys = table.keys_at(Knowledge.WHITE_BOX)
    inside = {
        epsilon: rows for epsilon, rows in table.curve.items()
        if rows and epsilon <= table.spec.threat.epsilon
    }  # fmt: skip
    if not keys or not inside:
        return not_tried("white_box and a curve up to the audited epsilon are not both there")
    held = table.held(keys)
    extra = {
        index for rows in inside.values() for index, row in rows.items()
        if index in held and row.answer != row.label
    }  # fmt: skip
    n = len(next(iter(inside.values())))
    text = (
        f"Up to epsilon {max(inside):g} the curve's attack broke {len(extra)} of "
        f"{count(n, 'image')} that no white-box attack did"
    )
    return within(len(extra), NOISE_POINTS, n, text)


def iterative(table: Table) -> Finding:
    """At white-box, many steps break at least as much as one."""
    keys = table.keys_at(Knowledge.WHITE_BOX)
    one_step = [key for key in keys if table.plan.lines[key].asked.name == "fgsm"]
    many = [
        key for key in keys
        if table.plan.lines[key].takes_gradient and key not in one_step
    ]  # fmt: skip
    if not one_step or not many:
        return not_tried("white_box has not both a one-step attack (fgsm) and an iterated one")
    if any(table.skipped[key] for key in (*one_step, *many)):
        return not_tried("the cascade leaves out images that would be compared")
    held_one = min(len(table.held([key])) for key in one_step)
    if len(table.clean) < 2:
        return not_tried(TOO_FEW)
    best = min(many, key=lambda key: len(table.held([key])))
    held_many, n = len(table.held([best])), len(table.clean)
    text = (
        f"White-box accuracy is {percent(held_many / n)} under {table.plan.lines[best].title} and "
        f"{percent(held_one / n)} under FGSM."
    )
    return Finding(held_many - held_one <= at_most(NOISE_POINTS, n), text)


def more_steps(table: Table) -> Finding:
    """Twice the steps find hardly more."""
    return _outdone(table, Probe.MORE_STEPS, "Twice the steps")


def more_restarts(table: Table) -> Finding:
    """Twice the restarts find hardly more."""
    return _outdone(table, Probe.MORE_RESTARTS, "As many restarts again")


def unbounded(table: Table) -> Finding:
    """With any perturbation allowed, every image falls, but for luck."""
    rows = table.probes[Probe.UNBOUNDED]
    if not rows:
        return not_tried(NO_PROBES)
    held, n = sum(not row.passed for row in rows.values()), len(rows)
    luck = 1 / len(table.source.label_names)
    if held and (n < 2 or len({table.clean[index].label for index in rows}) < 2):
        return not_tried(
            "a constant answer would hold, too, on images of one class, and "
            f"{held} of {count(n, 'image')} did"
        )
    text = f"PGD without a bound leaves {held} of {count(n, 'image')}; chance is {percent(luck)}."
    return Finding(wilson_interval(held, n)[0] <= luck, text)


def undefended(table: Table) -> Finding:
    """The same attack on the classifier alone does something."""
    rows = table.probes[Probe.UNDEFENDED]
    alone = right_undefended(table.clean) & rows.keys()
    if not alone:
        return not_tried(NO_PROBES if not rows else "the classifier alone gets no image right")
    broken = sum(rows[index].passed for index in alone)
    threat, n = table.spec.threat, len(alone)
    if n < 2:
        return not_tried(TOO_FEW)
    text = f"PGD broke {broken} of {count(n, 'image')} that the classifier alone gets right."
    if broken > max(1, HARMLESS * n):
        return Finding(True, text)
    if threat.epsilon >= TELLING_EPSILON[threat.norm]:
        return Finding(False, text)
    return Finding(None, f"Not conclusive: {text} The epsilon may be too small to break more.")


def _outdone(table: Table, probe: Probe, what: str) -> Finding:
    rows = table.probes[probe]
    if not rows:
        tried = any(table.probes.values())
        return not_tried(NO_WHITE_BOX if tried else NO_PROBES)
    found, n = sum(not row.passed for row in rows.values()), len(rows)
    return within(found, NOISE_POINTS, n, f"{what} broke {found} more of {count(n, 'image')}")


CHECKS: tuple[Check, ...] = (
    check(
        "accuracy falls with epsilon",
        monotone,
        raised_if="accuracy at some epsilon is above that at a smaller one, beyond noise",
        means="The attack wastes the room that it has: its steps or its gradient are wrong.",
        do="Use more steps, or apgd, which sets its own step size; look for gradient masking.",
    ),
    check(
        "the curve finds no more than the lines",
        curve_agrees,
        raised_if=f"the attack of the curve breaks more than {NOISE_POINTS:g} points beyond the "
        "white-box lines",
        means="The lines' attacks are too weak; the reported accuracy is too high.",
        do="Add apgd, or more steps, restarts and kinds of start.",
    ),
    check(
        "iterated attacks beat one step",
        iterative,
        raised_if="no iterated white-box attack gets accuracy down to that under FGSM",
        means="One step does better than many: the loss surface misleads the attack.",
        do=ADAPT,
    ),
    check(
        "twice the steps change nothing",
        more_steps,
        raised_if=f"twice the steps break more than {NOISE_POINTS:g} points of the images",
        means="The attack had not converged, so that the reported accuracy is too high.",
        do="Raise `steps` until this check passes.",
    ),
    check(
        "twice the restarts change nothing",
        more_restarts,
        raised_if=f"further random starts break more than {NOISE_POINTS:g} points of the images",
        means="What the attack finds depends on where it starts; the accuracy is too high.",
        do="Raise `restarts` until this check passes.",
    ),
    check(
        "without a bound, everything falls",
        unbounded,
        raised_if="PGD that may change an image at will leaves more than chance",
        means="The attack does not work on this model at any strength: " + MASKED,
        do=ADAPT,
    ),
    check(
        "the bare classifier falls",
        undefended,
        raised_if="PGD on the classifier alone breaks hardly any image, at a telling epsilon",
        means="The attack does not even work where there is no defence.",
        do="Check that the classifier has a gradient and returns logits; use a margin or dlr loss.",
    ),
)
