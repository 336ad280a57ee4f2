"""What every rendering of a report shows, with its numbers already formatted."""

from dataclasses import dataclass

from fend.audit.presets import ABOUT, PRESETS, fitted
from fend.audit.report import (
    Line,
    Report,
    SanityLine,
    Share,
    attack_title,
    interval,
    percent,
    threat_text,
)
from fend.audit.spec import AuditSpec

CHECK_ORDER = {False: 0, True: 1, None: 2}


HOLDS = 0.9
"""Share of the images that are right clean that has to hold for the word "holds"."""


@dataclass(frozen=True)
class Outcome:
    """The result in a word: `state` is for a style sheet."""

    state: str
    word: str
    sentence: str


def outcome_of(report: Report) -> Outcome:
    """What the worst case of all attacks says.

    `holds`: at least nine tenths of what is right clean. `falls`: no more than a guess gets right.
    """
    share, clean = report.worst_case, report.clean.defended
    if report.reliable is False:
        return Outcome("unreliable", "✕ Unreliable", "the attacks may have failed")
    if not share.correct:
        return Outcome("falls", "✕ Falls", "no image holds under all attacks")
    if share.accuracy <= 1 / len(report.identity.label_names):
        return Outcome("falls", "✕ Falls", "no more images hold than a guess would get right")
    if share.correct >= HOLDS * clean.correct:
        return Outcome("holds", "✓ Holds", "against the attacks that were tried")
    return Outcome("partly", "◐ Partly holds", "some images hold under all attacks, some do not")


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
        outcome: The result in a word.
        preset: The preset, what it is good for, and how the audit differs from it.
        rows: The clean images, every attack, then the worst case of each level and of all.
        curve: For each epsilon: epsilon, accuracy and interval of the pipeline under white-box
            attacks, then of the classifier alone.
        classes: For each class: label, images, clean accuracy, worst case, interval.
        checks: Sanity checks: failed ones first, then passed ones, then those not tried.
        tally: Such as "16 passed", "1 failed", "3 not tried".
    """

    report: Report
    threat: str
    outcome: Outcome
    preset: str
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
        outcome=outcome_of(report),
        preset=preset_text(report.spec),
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


def preset_text(spec: AuditSpec) -> str:
    """Such as "quick, a quick look ...; changed: samples 50"."""
    if spec.preset is None:
        return "none: the attacks were chosen one by one"
    if spec.preset not in PRESETS:
        return spec.preset
    text = f"{spec.preset}, {ABOUT[spec.preset]}"
    preset = AuditSpec.model_validate({**PRESETS[spec.preset], "model": spec.model})
    changed = [
        f"{field.replace('_', ' ')} {'all' if value is None else value}"
        for field in ("samples", "cascade", "sanity_samples")
        if (value := getattr(spec, field)) != getattr(preset, field)
    ]
    added = [item for item in spec.attacks if item not in preset.attacks]
    gone = [item for item in preset.attacks if item not in spec.attacks]
    for classes in range(2, 10):  # more classes change no attack of a preset
        if added and set(added) <= set(fitted(preset.attacks, classes)):
            changed.append(f"fitted to a model of {classes} classes")
            break
    levels = [level for level in preset.knowledge if level not in spec.knowledge]
    for word, names in (
        ("with", [attack_title(item) for item in added]),
        ("without", [attack_title(item) for item in gone] + levels),
    ):
        changed += [f"{word} {', '.join(names)}"] if names else []
    return f"{text}; changed: {'; '.join(changed)}" if changed else text


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
