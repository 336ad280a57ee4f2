"""The sanity block: did the attacks of an audit work, or does the model only look robust?

Each check is a pure function of the rows. They are those of the published checklists:
AutoAttack's flags, the indicators of attack failure of Pintor et al. (2021), the symptoms of
obfuscated gradients of Athalye et al. (2018) and the basic tests of Carlini et al. (2019).
"""

from fend.audit.rows.table import Table
from fend.audit.sanity import answers, budget, gradients, rivals
from fend.audit.sanity.finding import Check, SanityLine

CHECKS: tuple[Check, ...] = (*budget.CHECKS, *rivals.CHECKS, *gradients.CHECKS, *answers.CHECKS)


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
