"""What every rendering of a report shows, with its numbers already formatted."""

from dataclasses import dataclass

from fend.audit.report import Line, Report, SanityLine, Share, interval, percent, threat_text

CHECK_ORDER = {False: 0, True: 1, None: 2}


@dataclass(frozen=True)
class Row:
    """A row of the table of attacks: the clean images, an attack, or a worst case."""

    attacker: str
    """Knowledge level; `none` for the clean images, `all` for the worst case of all levels."""
    title: str
    gradient_through: str
    defended: Share
    undefended: Share | None
    line: Line | None = None
    """The attack; None for the clean images and for a worst case."""
    is_worst_case: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        """Attacker, attack, gradient through, accuracy, its interval, without the denoiser."""
        missing = "" if self.is_worst_case else "-"
        alone = missing if self.undefended is None else percent(self.undefended.accuracy)
        return (self.attacker, self.title, self.gradient_through, *numbers(self.defended), alone)


@dataclass(frozen=True)
class View:
    """A report, ready to be laid out.

    Attributes:
        report: What is shown as it stands: verdict, identity, threat model, spec.
        threat: The threat model in words.
        rows: The clean images, every attack, then the worst case of each level and of all.
        curve: For each epsilon: epsilon, accuracy and interval of the pipeline under white-box
            attacks, then of the classifier alone.
        classes: For each class: label, images, clean accuracy, worst case, interval.
        checks: Sanity checks: failed ones first, then passed ones, then those not tried.
        tally: Such as "16 passed", "1 failed", "3 not tried".
    """

    report: Report
    threat: str
    rows: tuple[Row, ...]
    curve: tuple[tuple[str, ...], ...]
    classes: tuple[tuple[str, ...], ...]
    checks: tuple[SanityLine, ...]
    tally: tuple[str, ...]

    @property
    def failed(self) -> tuple[SanityLine, ...]:
        return tuple(check for check in self.checks if check.passed is False)


def view_of(report: Report) -> View:
    """The view that all renderings of `report` share."""
    states = [check.passed for check in report.sanity]
    words = ((True, "passed"), (False, "failed"), (None, "not tried"))
    return View(
        report=report,
        threat=threat_text(report.threat.norm, report.threat.epsilon),
        rows=_rows(report),
        curve=tuple(
            (f"{point.epsilon:g}", *numbers(point.defended), *numbers(point.undefended))
            for point in report.curve
        ),
        classes=tuple(
            (line.label, str(line.clean.n), percent(line.clean.accuracy), *numbers(line.worst_case))
            for line in report.classes
        ),
        checks=tuple(sorted(report.sanity, key=lambda check: CHECK_ORDER[check.passed])),
        tally=tuple(f"{states.count(state)} {word}" for state, word in words),
    )


def numbers(share: Share) -> tuple[str, str]:
    """Accuracy and its 95 % interval."""
    return percent(share.accuracy), interval(share)


def _rows(report: Report) -> tuple[Row, ...]:
    clean = Row("none", "clean images", "-", report.clean.defended, report.clean.undefended)
    attacks = [
        Row(
            line.knowledge,
            f"{line.title} ({line.attacked} tried)" if line.skipped else line.title,
            line.gradient_through,
            line.defended,
            line.undefended,
            line,
        )
        for line in report.lines
    ]
    worst: list[tuple[str, Share]] = list(report.worst_case_by_knowledge.items())
    return (
        clean,
        *attacks,
        *(
            Row(level, "worst case", "", share, None, is_worst_case=True)
            for level, share in (*worst, ("all", report.worst_case))
        ),
    )
