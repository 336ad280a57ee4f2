"""The curve: white-box accuracy against epsilon."""

from collections.abc import Callable

from fend.attacks import APGD, PGD, AttackSpec
from fend.audit.rows import CurveRow, Row
from fend.audit.work.batch import Batch
from fend.audit.work.judge import judge
from fend.audit.work.line import undefended_answers, worst_answers
from fend.audit.work.opened import OpenAudit
from fend.threat import ThreatModel

STEPS = 40


def curve_rows(opened: OpenAudit, batch: Batch, stop: Callable[[], None]) -> list[Row]:
    """The images of `batch` at each of the spec's epsilons.

    They are attacked by PGD-40 from the image itself and by APGD-40 from a random start.
    Each epsilon is attacked by itself: an attack that does worse with more room is a sign of
    trouble that the report looks for, so nothing found at a smaller epsilon is handed on.
    """
    return [
        row
        for epsilon in (opened.spec.epsilons if batch.indices else ())
        for row in _at(opened, batch, epsilon, stop)
    ]


def _at(opened: OpenAudit, batch: Batch, epsilon: float, stop: Callable[[], None]) -> list[Row]:
    stop()
    if epsilon == 0:  # nothing but the image itself
        judged = judge(opened.bundle.defence, batch.images, opened.randomised)
        defended = {
            index: answer.defended for index, answer in zip(batch.indices, judged, strict=True)
        }
        undefended = [answer.undefended for answer in judged]
    else:
        threat = ThreatModel(norm=opened.spec.threat.norm, epsilon=epsilon)
        attackers: list[AttackSpec] = []
        for way in opened.plan.white_box_gradients:
            attackers.append(PGD(steps=STEPS, gradient=way, random_start=False))
            attackers.append(APGD(steps=STEPS, gradient=way))
        worst = worst_answers(opened, batch, attackers, threat, stop)
        defended = {index: answer.defended for index, answer in worst.items()}
        undefended = undefended_answers(opened, batch, attackers[1], threat, stop)
    return [
        CurveRow(
            index=index,
            label=label,
            epsilon=epsilon,
            answer=defended[index],
            undefended_answer=alone,
        )
        for index, label, alone in zip(
            batch.indices, batch.labels.tolist(), undefended, strict=True
        )
    ]
