"""The numbers of an HTML report: the headline, each attack, the curve and the classes."""

from xml.etree.ElementTree import Element

from fend.audit.html_sanity import tally
from fend.audit.markup import element, extend, table
from fend.audit.plots import (
    MOST_CLASSES,
    attack_plot,
    class_plot,
    curve_plot,
    interval_plot,
    level_name,
)
from fend.audit.report import Line, Report, Share, interval, percent, threat_text

STATE = {
    True: "✓ Checks passed",
    False: "✕ Unreliable",
    None: "\N{EN DASH} Partly checked",
}


def headline(report: Report) -> Element:
    """The number to quote with its interval, whether to believe it, and the verdict."""
    share = report.headline.accuracy
    by = "every white-box attack" if report.headline.knowledge else "every attack"
    state = {True: "reliable", False: "unreliable", None: "unchecked"}[report.reliable]
    return element(
        "section",
        element(
            "div",
            element("p", percent(share.accuracy), class_="number"),
            element(
                "div",
                element(
                    "p",
                    f"of {share.n:,} images are answered right, clean and under {by} tried "
                    f"({threat_text(report.threat.norm, report.threat.epsilon)})",
                ),
                interval_plot(share, report.clean.defended),
                element(
                    "p",
                    f"95 % interval {interval(share)}; ▾ clean",
                    class_="note",
                ),
                class_="says",
            ),
            class_="quoted",
        ),
        element(
            "div",
            element("p", STATE[report.reliable], class_="state"),
            extend(Element("ul"), (element("li", part) for part in tally(report))),
            class_="badge",
        ),
        extend(
            element("dl", class_="tiles"),
            (
                element("div", element("dt", term), element("dd", percent(of.accuracy)),
                        element("dd", interval(of), class_="note"))
                for term, of in (
                    ("Clean", report.clean.defended),
                    ("Clean, no denoiser", report.clean.undefended),
                    *(
                        (f"Worst case, {level_name(level)}", of)
                        for level, of in report.worst_case_by_knowledge.items()
                    ),
                    ("Worst case, all", report.worst_case),
                )
            ),
        ),
        element("p", report.verdict, class_="verdict"),
        class_=f"headline {state}",
    )  # fmt: skip


def attacks(report: Report) -> Element:
    """Bars and tables of every line, by level."""
    cascade = (
        " Within a level later attacks ran only on images that still held (a cascade): a line "
        "counts what it and the earlier lines of its level broke."
    )
    return element(
        "section",
        element("h2", "Accuracy under attack"),
        element(
            "p",
            "Bars are accuracy with 95 % intervals; ◇ is the classifier alone on the same images.",
            cascade if report.spec.cascade else None,
            class_="note",
        ),
        attack_plot(report),
        table(
            ("Attack", "Gradient through", "Accuracy", "95 % interval",
             "Without denoiser", "Mean confidence"),
            (
                (_name(line), line.gradient_through,
                 percent(line.defended.accuracy), _range(line.defended),
                 _percent(line.undefended), _number(line.mean_confidence))
                for line in report.lines
            ),
            "numbers",
        ),
        element("h3", "What happened inside the attacks"),
        element(
            "p",
            "Counts of images. Fooled its model: the one that the gradient went through. Lost "
            "finds: the attack saw it fooled, but returned another image. Unfinished: the loss was "
            "still rising when the steps ran out.",
            class_="note",
        ),
        table(
            ("Attack", "Tried", "Mean distance", "Largest", "Fooled its model", "Lost finds",
             "Zero gradient", "NaN gradient", "Unfinished", "Passes forward", "backward"),
            (_inside(line) for line in report.lines),
            "numbers",
        ),
    )  # fmt: skip


def curve(report: Report) -> Element | None:
    """Accuracy against epsilon, where it was measured."""
    if not report.curve:
        return None
    return element(
        "section",
        element("h2", "Accuracy against epsilon"),
        element(
            "p",
            element("span", class_="key line"), " with the denoiser, white-box, with its 95 % "
            "interval; ",
            element("span", class_="key alone"), " the classifier alone, attacked for itself. "
            f"{report.curve[0].defended.n:,} images.",
            class_="note",
        ),
        curve_plot(report.curve, report.threat.epsilon),
        table(
            ("Epsilon", "in 1/255", "White-box accuracy", "95 % interval", "Classifier alone",
             "95 % interval"),
            (
                (f"{point.epsilon:g}", f"{point.epsilon_255:g}",
                 percent(point.defended.accuracy), _range(point.defended),
                 percent(point.undefended.accuracy), _range(point.undefended))
                for point in report.curve
            ),
            "numbers",
        ),
    )  # fmt: skip


def classes(report: Report) -> Element:
    """Clean accuracy and worst case of each class."""
    most = "" if len(report.classes) <= MOST_CLASSES else (
        f" Shown are the {MOST_CLASSES} of {len(report.classes)} classes with the lowest worst "
        "case; the table has all."
    )  # fmt: skip
    return element(
        "section",
        element("h2", "By class"),
        element(
            "p",
            f"Frame: clean. Bar: worst case over all attackers, with its 95 % interval.{most}",
            class_="note",
        ),
        class_plot(report.classes),
        table(
            ("Class", "Images", "Clean", "Worst case", "95 % interval"),
            (
                (line.label, f"{line.clean.n:,}", percent(line.clean.accuracy),
                 percent(line.worst_case.accuracy), _range(line.worst_case))
                for line in report.classes
            ),
            "numbers",
        ),
    )  # fmt: skip


def _name(line: Line) -> Element:
    level = element("span", level_name(line.knowledge), class_="by")
    # No line break inside "PGD-20".
    return element("span", level, f" {line.title}".replace("-", "\N{NON-BREAKING HYPHEN}"))


def _inside(line: Line) -> tuple[Element | str, ...]:
    return (
        _name(line), f"{line.attacked:,}", _distance(line.mean_distance),
        _distance(line.max_distance), f"{line.attacked_model_fooled:,}",
        f"{line.silent_successes:,}", f"{line.zero_gradients:,}", f"{line.broken_gradients:,}",
        f"{line.unfinished:,}", f"{line.forward_passes:,}", f"{line.backward_passes:,}",
    )  # fmt: skip


def _distance(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _range(share: Share) -> str:
    return f"{100 * share.low:.1f} to {100 * share.high:.1f}"


def _percent(share: Share | None) -> str:
    return "-" if share is None else percent(share.accuracy)


def _number(value: float | None) -> str:
    return "-" if value is None else percent(value)
