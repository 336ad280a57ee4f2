"""Sanity checks that set attackers against each other: who knows more must not find less."""

from collections.abc import Sequence

from fend.audit.plan import Key, PlannedLine
from fend.audit.rows import Probe
from fend.audit.rows.statistics import percent
from fend.audit.rows.table import Table
from fend.audit.sanity.finding import (
    ADAPT,
    MASKED,
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

BEYOND_POINTS = 0.2
"""Points that an attack without the exact gradient may find beyond the attacks with it: the limit
at which AutoAttack flags a model."""


def knowledge_order(table: Table) -> Finding:
    """An attacker who knows everything breaks no less than one who knows a part.

    The other levels are not compared with each other: an attacker with a surrogate denoiser does
    not know what one with the true classifier knows, nor the other way round.
    """
    levels = [level for level in table.spec.knowledge if level is not Knowledge.QUERY]
    if Knowledge.WHITE_BOX not in levels or len(levels) < 2:
        return not_tried("white_box and a level that knows less are not both there")
    n = len(table.clean)
    held = {level: len(table.held(table.keys_at(level))) for level in levels}
    text = ", ".join(f"{percent(held[level] / n)} under {level}" for level in levels)
    excess = held[Knowledge.WHITE_BOX] - min(held.values())
    if not excess:
        return Finding(True, f"white_box is the lowest: {text}.")
    if n < 2:
        return not_tried(TOO_FEW)
    text = (
        f"white_box leaves {excess} more than another level ({allowed(NOISE_POINTS, n)}): {text}."
    )
    return Finding(excess <= at_most(NOISE_POINTS, n), text)


def queries(table: Table) -> Finding:
    """Answers alone do not get further than gradients."""
    white, query = table.keys_at(Knowledge.WHITE_BOX), table.keys_at(Knowledge.QUERY)
    if not white or not query:
        return not_tried("white_box and query are not both there")
    return _beyond(table, query, white, "white-box attack")


def bypasses(table: Table) -> Finding:
    """Attacks that pass the denoiser by, or go for features, do not beat the exact gradient."""
    keys = [
        key for key in table.keys_at(Knowledge.WHITE_BOX)
        if table.plan.lines[key].takes_gradient
    ]  # fmt: skip
    around = [key for key in keys if _is_bypass(table.plan.lines[key])]
    exact = [key for key in keys if key not in around]
    if not around or not exact:
        return not_tried(
            "white_box has not both a BPDA or feature_distance attack and one on the exact loss"
        )
    finding = _beyond(table, around, exact, "attack on the exact loss")
    if finding.passed is None:
        return finding
    n = len(table.clean)
    numbers = ", ".join(
        f"{percent(len(table.held([key])) / n)} under {table.plan.lines[key].title}" for key in keys
    )
    cascade = " (each line counting what came before it)" if table.spec.cascade else ""
    note = " That one of them is weaker says nothing for the model." if finding.passed else ""
    return Finding(finding.passed, f"{finding.text} Accuracy: {numbers}{cascade}.{note}")


def noise(table: Table) -> Finding:
    """Random points of the ball break nothing that attacks have missed."""
    rows = table.probes[Probe.NOISE]
    keys = table.keys_at(Knowledge.WHITE_BOX)
    drawn = [key for key in keys if table.plan.lines[key].asked.access == "none"]
    aimed = [key for key in keys if key not in drawn]
    findings = []
    if rows:
        found, n = sum(not row.passed for row in rows.values()), len(rows)
        text = f"Random points fooled {found} of {count(n, 'image')} where attacks had failed"
        findings.append(within(found, BEYOND_POINTS, n, text))
    if drawn and aimed:
        findings.append(_beyond(table, drawn, aimed, "white-box attack with a gradient"))
    if not findings:
        return not_tried("no probes ran at white_box, and noise is not among its attacks")
    states = [finding.passed for finding in findings]
    passed = False if False in states else None if None in states else True
    return Finding(passed, " ".join(dict.fromkeys(finding.text for finding in findings)))


def _beyond(table: Table, others: Sequence[Key], reference: Sequence[Key], what: str) -> Finding:
    """What `others` broke and no attack of `reference` did, though one of them tried."""
    tried = {index for key in reference for index in table.lines[key]}
    left = (tried & table.right_clean) - table.broken(reference)
    extra, n = len(left & table.broken(others)), len(table.clean)
    names = " and ".join(table.plan.lines[key].title for key in others)
    text = f"{names} broke {extra} of {count(n, 'image')} that no {what} did"
    return within(extra, BEYOND_POINTS, n, text)


def _is_bypass(line: PlannedLine) -> bool:
    past = line.gradient.denoiser == "identity"
    return past or line.asked.objective.loss == "feature_distance"


CHECKS: tuple[Check, ...] = (
    check(
        "white-box is the strongest",
        knowledge_order,
        raised_if="accuracy under white_box is above that of an attacker who knows less",
        means=MASKED,
        do=ADAPT,
    ),
    check(
        "queries find no more than gradients",
        queries,
        raised_if=f"query attacks break more than {BEYOND_POINTS:g} points beyond white_box",
        means=MASKED,
        do=ADAPT,
    ),
    check(
        "BPDA and features find no more",
        bypasses,
        raised_if=f"BPDA or feature attacks break more than {BEYOND_POINTS:g} points beyond the "
        "exact gradient",
        means=MASKED,
        do="Take the attacks that did better as the start of a stronger one: more steps, restarts, "
        "other losses.",
    ),
    check(
        "noise is weaker than attacks",
        noise,
        raised_if=f"random points of the ball break more than {BEYOND_POINTS:g} points that "
        "attacks missed",
        means="The attacks are worse than chance: " + MASKED,
        do=ADAPT,
    ),
)
