"""The sanity block: did the attacks of an audit work, or does the model only look robust?

Each check is a pure function of the rows. They are those of the published checklists:
AutoAttack's flags, the indicators of attack failure of Pintor et al. (2021), the symptoms of
obfuscated gradients of Athalye et al. (2018) and the basic tests of Carlini et al. (2019).
"""

from fend.audit import sanity_answers, sanity_budget, sanity_gradients, sanity_rivals
from fend.audit.finding import Check
from fend.audit.report import SanityLine
from fend.audit.sanity_gradients import unfinished
from fend.audit.table import Table

__all__ = ["CHECKS", "sanity_block", "unfinished"]

CHECKS: tuple[Check, ...] = (
    *sanity_budget.CHECKS,
    *sanity_rivals.CHECKS,
    *sanity_gradients.CHECKS,
    *sanity_answers.CHECKS,
)


def sanity_block(table: Table) -> tuple[SanityLine, ...]:
    """Every check on an audit's rows."""
    lines = []
    for check in CHECKS:
        finding = check.judge(table)
        lines.append(
            SanityLine(
                name=check.name, passed=finding.passed, text=finding.text, advice=check.advice
            )
        )
    return tuple(lines)
