"""Did the attacks of a cell work? What is not as it must be is flagged in the table itself."""

from fend.threat import Knowledge
from reproduction.estimates import leaves_more
from reproduction.result import CellResult, UnderThreat

NEAR_ZERO = 0.02
"""At epsilon 0.5, without a defence."""
CHANCE = 0.15
"""At epsilon 0.5, with one: grey images all get one answer, which is right for one in ten."""

_ORDER = (
    (Knowledge.WHITE_BOX, Knowledge.GREY_BOX),
    (Knowledge.WHITE_BOX, Knowledge.GREY_BOX_AWARE),
    (Knowledge.WHITE_BOX, Knowledge.BLACK_BOX),
    (Knowledge.GREY_BOX, Knowledge.BLACK_BOX),
)
"""Who knows more, and who knows less. An attacker with a surrogate of the whole pipeline knows
neither more nor less than one with the true classifier."""


def violations(result: CellResult, threat: UnderThreat) -> list[str]:
    """What is not as it must be, in words; [] where all is."""
    found = []
    for more, less in _ORDER:
        if more in threat.levels and less in threat.levels:
            strong, weak = threat.levels[more].worst, threat.levels[less].worst
            if leaves_more(strong, weak):
                found.append(
                    f"{more} leaves {strong.accuracy:.1%}, {less} only {weak.accuracy:.1%}"
                )
    for level, at in threat.levels.items():
        if leaves_more(at.pgd, at.fgsm):
            found.append(
                f"{level}: PGD leaves {at.pgd.accuracy:.1%}, FGSM only {at.fgsm.accuracy:.1%}"
            )
    # The curve may be on fewer images than the clean accuracy.
    if threat.at_zero.n == result.clean.n and threat.at_zero.correct != result.clean.correct:
        found.append(
            f"epsilon 0 leaves {threat.at_zero.accuracy:.1%}, and {result.clean.accuracy:.1%} are "
            "right clean"
        )
    limit = NEAR_ZERO if result.defence == "unsecured" else CHANCE
    if threat.at_half.accuracy > limit:
        found.append(f"white-box at epsilon 0.5 leaves {threat.at_half.accuracy:.1%}")
    return found
