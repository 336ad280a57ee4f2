"""What every rendering of a report shows, with its numbers already formatted."""

from dataclasses import dataclass

from fend.attacks import AttackSpec
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
from fend.threat import Knowledge

CHECK_ORDER = {False: 0, True: 1, None: 2}


WORDS = (
    ("Adversarial image", "an image changed on purpose, by so little that people still see the "
     "same in it, so that the model errs"),
    ("Epsilon", "how much may be changed: in Linf the most that any one pixel may, on a scale "
     "from 0 (black) to 1 (white); in L2 the length of the whole change"),
    ("Black-box", "the attacker has nothing of the model, and attacks one of their own"),
    ("Grey-box", "the attacker has the classifier and its weights, and not the denoiser"),
    ("White-box", "the attacker has everything: denoiser, classifier and weights"),
    ("Query", "the attacker may only ask, and sees the answers"),
    ("FGSM", "one step along the gradient"),
    ("PGD, BIM, MI-FGSM, APGD", "many steps along the gradient; from a random start, from the "
     "image, with momentum, or with step sizes that adapt"),
    ("Square, HopSkipJump", "attacks that only ask"),
    ("BPDA", "the gradient goes around the denoiser, as if it changed nothing"),
    ("EOT", "the gradient is a mean over several passes of a model that answers at random"),
)  # fmt: skip
"""What readers may not know, for the end of the page."""

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
        plain: What the number means, for people outside of the field.
        denoiser: What the denoiser changes: against whom, with it, without it.
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
    plain: str
    denoiser: tuple[tuple[str, str, str], ...]
    preset: str
    rows: tuple[Row, ...]
    curve: tuple[tuple[str, ...], ...]
    classes: tuple[tuple[str, ...], ...]
    checks: tuple[SanityLine, ...]
    tally: tuple[str, ...]

    @property
    def failed(self) -> tuple[SanityLine, ...]:
        return tuple(check for check in self.checks if check.passed is False)

    @property
    def untried(self) -> tuple[SanityLine, ...]:
        return tuple(check for check in self.checks if check.passed is None)


def view_of(report: Report) -> View:
    """The view that all renderings of `report` share."""
    states = [check.passed for check in report.sanity]
    words = ((True, "passed"), (False, "failed"), (None, "not tried"))
    return View(
        report=report,
        threat=threat_text(report.threat.norm, report.threat.epsilon),
        outcome=outcome_of(report),
        plain=plain_text(report),
        denoiser=_denoiser(report),
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


def plain_text(report: Report) -> str:
    """Such as "Of 100 pictures about 94 are still labelled right after ..."."""
    share, clean, threat = report.headline.accuracy, report.clean.defended, report.threat
    change = (
        f"changed each pixel by at most {threat.epsilon:.0%} of the way from black to white"
        if threat.norm == "linf"
        else f"changed the picture by at most {threat.epsilon:g} in length (L2)"
    )
    who = (
        "somebody who knows everything about the model"
        if report.headline.knowledge is Knowledge.WHITE_BOX
        else "somebody with the means that were tried"
    )
    return (
        f"Of 100 such pictures about {100 * share.correct // share.n} are still labelled right "
        f"after {who} {change}; without an attack about {100 * clean.correct // clean.n} are."
    )


def _denoiser(report: Report) -> tuple[tuple[str, str, str], ...]:
    """The classifier alone is attacked for itself: grey-box attacks do that, and so does the
    curve."""
    clean, worst = report.clean, report.worst_case_by_knowledge
    rows = [("nobody", percent(clean.defended.accuracy), percent(clean.undefended.accuracy))]
    alone = [
        line.undefended.accuracy
        for line in report.lines
        if line.knowledge is Knowledge.GREY_BOX and line.undefended is not None
    ]
    alone += [p.undefended.accuracy for p in report.curve if p.epsilon == report.threat.epsilon]
    without = percent(min(alone)) if alone else "-"
    against = {
        Knowledge.GREY_BOX: "who knows the classifier, not the denoiser (grey-box)",
        Knowledge.WHITE_BOX: "who knows everything (white-box)",
    }
    rows += [
        (who, percent(worst[level].accuracy), without)
        for level, who in against.items()
        if level in worst
    ]
    return tuple(rows)


def settings(attack: AttackSpec) -> str:
    """The options of an attack as they ran, such as "steps 20, restarts 1"."""
    told = []
    for name, value in attack.model_dump(mode="json").items():
        if isinstance(value, dict):
            told += [f"{name} {key} {inner}" for key, inner in value.items()]
        elif name != "name":
            told.append(f"{name} {'by default' if value is None else value}")
    return ", ".join(told).replace("_", " ") or "none"


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
