"""A report as Markdown, for a model card or a pull request."""

from fend.audit.report import CurvePoint, Line, Report, SanityLine, Share, percent, threat_text

MARKS = {True: "pass", False: "**FAIL**", None: "not tried"}


def to_markdown(report: Report) -> str:
    """The report's numbers, sanity block and identity; the raw rows and the JSON hold more."""
    identity, threat = report.identity, report.threat
    parts = [
        f"# Robustness of {identity.model}",
        f"**{report.verdict}**",
        f"Threat model: {threat_text(threat.norm, threat.epsilon)}, untargeted success counts, "
        f"pixels stay in [0, 1]. n = {identity.n} images of {identity.dataset}.",
        _table(
            ("Attacker", "Attack", "Gradient through", "Accuracy", "95 % interval",
             "Without the denoiser"),
            [
                ("none", "clean images", "-", *_cells(report.clean.defended),
                 percent(report.clean.undefended.accuracy)),
                *(_line_cells(line) for line in report.lines),
                *(
                    (f"**{knowledge}**", "**worst case per image**", "", *_cells(share), "")
                    for knowledge, share in report.worst_case_by_knowledge.items()
                ),
                ("**all**", "**worst case per image**", "", *_cells(report.worst_case), ""),
            ],
        ),
        "An image counts only if it is answered right both clean and attacked. The last column is "
        "the classifier alone on the same adversarial images.",
        "## Did the attacks work?",
        _table(("Check", "", "Numbers"), [_sanity_cells(line) for line in report.sanity]),
        *(f"- {line.name}: {line.advice.means} {line.advice.do}" for line in report.sanity
          if line.passed is False),
        *_curve(report),
        "## By class",
        _table(
            ("Class", "n", "Clean", "Worst case", "95 % interval"),
            [
                (line.label, str(line.clean.n), percent(line.clean.accuracy),
                 *_cells(line.worst_case))
                for line in report.classes
            ],
        ),
        "## Identity",
        _table(
            ("What", "Value"),
            [(key.replace("_", " "), str(value)) for key, value in identity if
             key not in ("label_names", "indices") and value is not None],
        ),
    ]  # fmt: skip
    if report.spec.cascade:
        parts[4] += (
            " The levels cascade: a line counts what it and the earlier lines of its level broke."
        )
    if report.served is not None:
        served = report.served
        parts.insert(
            5,
            f"Of {served.agreed.n} adversarial images, rounded to 8 bits and sent to the service, "
            f"{served.agreed.correct} got the answer of the audit.",
        )
    if report.not_finite:
        parts.insert(2, f"{report.not_finite} answers were NaN or infinite and count as wrong.")
    return "\n\n".join(parts) + "\n"


def _line_cells(line: Line) -> tuple[str, ...]:
    title = f"{line.title} ({line.attacked} tried)" if line.skipped else line.title
    undefended = "-" if line.undefended is None else percent(line.undefended.accuracy)
    return (line.knowledge, title, line.gradient_through, *_cells(line.defended), undefended)


def _sanity_cells(line: SanityLine) -> tuple[str, ...]:
    return line.name, MARKS[line.passed], line.text


def _curve(report: Report) -> list[str]:
    if not report.curve:
        return []
    n = report.curve[0].defended.n
    return [
        "## Accuracy against epsilon",
        _table(
            ("Epsilon", "White-box", "95 % interval", "Classifier alone", "95 % interval"),
            [_point_cells(point) for point in report.curve],
        ),
        f"{n} images; the classifier alone is attacked for itself.",
    ]


def _point_cells(point: CurvePoint) -> tuple[str, ...]:
    return f"{point.epsilon:g}", *_cells(point.defended), *_cells(point.undefended)


def _cells(share: Share) -> tuple[str, str]:
    return percent(share.accuracy), f"{percent(share.low)} to {percent(share.high)}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
