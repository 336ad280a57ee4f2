"""The sentence that a report opens with, made from its numbers and its sanity block."""

from collections.abc import Sequence

from fend.audit.report.report import Headline, Share, interval, threat_text
from fend.audit.rows.statistics import percent
from fend.audit.sanity.finding import SanityLine
from fend.threat import ThreatModel


def is_reliable(sanity: Sequence[SanityLine], probed: bool) -> bool | None:
    """Whether no check failed. None where none did, but no probe ran: too little was tried."""
    if any(line.passed is False for line in sanity):
        return False
    return True if probed else None


def verdict(
    threat: ThreatModel,
    headline: Headline,
    worst_case: Share,
    sanity: Sequence[SanityLine],
    reliable: bool | None,
) -> str:
    """What may be said, and what may not."""
    share = headline.accuracy
    attackers = "under every attack tried here" if headline.knowledge is None else (
        "under every white-box attack tried here"
    )  # fmt: skip
    number = (
        f"{percent(share.accuracy)} (95 % interval {interval(share)}) of {share.n} images are "
        f"answered right clean and {attackers} ({threat_text(threat.norm, threat.epsilon)})"
    )
    if reliable is False:
        failed = [line.name for line in sanity if line.passed is False]
        tried = sum(line.passed is not None for line in sanity)
        parts = [
            f"Unreliable: {len(failed)} of {tried} sanity checks failed. It does not hold that "
            f"{'; nor that '.join(failed)}.",
            f"That {number} is no evidence of robustness: the attacks may have failed.",
        ]
    elif not share.correct:
        parts = [f"It does not hold at all: {number}."]
    else:
        parts = [
            f"An upper bound on robustness, not a proof: {number}; a stronger attack can only "
            "lower this number."
        ]
    if headline.knowledge is None:
        parts.append(
            "No attacker here knew the whole pipeline: add white_box before relying on it."
        )
    elif worst_case.correct < share.correct:
        parts.append(
            f"With the other attackers' finds, {percent(worst_case.accuracy)} "
            f"({interval(worst_case)}) hold."
        )
    if reliable is None and share.n == 1:
        parts.append("One image is too few for most checks of the attacks.")
    elif reliable is None:
        parts.append("No probes ran, so the sanity block is only a part of what it should be.")
    return " ".join(parts)
