"""A report as Markdown, for a model card or a pull request."""

from fend.audit.report import Line, Report, Share, percent, threat_text


def to_markdown(report: Report) -> str:
    """The report's numbers and identity; the raw rows and the JSON hold more."""
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
             key != "label_names"],
        ),
    ]  # fmt: skip
    if report.not_finite:
        parts.insert(2, f"{report.not_finite} answers were NaN or infinite and count as wrong.")
    return "\n\n".join(parts) + "\n"


def _line_cells(line: Line) -> tuple[str, ...]:
    return (
        line.knowledge, line.title, line.gradient_through, *_cells(line.defended),
        percent(line.undefended.accuracy),
    )  # fmt: skip


def _cells(share: Share) -> tuple[str, str]:
    return percent(share.accuracy), f"{percent(share.low)} to {percent(share.high)}"


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(_escape(cell) for cell in line) + " |" for line in lines)


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")
