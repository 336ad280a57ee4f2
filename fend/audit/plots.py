"""The pictures of a report's numbers, as SVG. Colours come from the page's style sheet.

No line is told from another by its colour alone.
"""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from fend.audit.markup import element, extend
from fend.audit.report import ClassLine, CurvePoint, Line, Report, Share, interval, percent
from fend.threat import Knowledge

MOST_CLASSES = 20
WIDTH = 720


def curve_plot(points: Sequence[CurvePoint], epsilon: float) -> Element:
    """Accuracy against epsilon: with the denoiser (and its interval), and the classifier alone."""
    left, right, top, bottom = 52, WIDTH - 20, 34, 262
    largest = max(max(point.epsilon for point in points), epsilon) or 1.0

    def x(value: float) -> float:
        return round(left + (right - left) * value / largest, 1)

    def y(share: float) -> float:
        return round(bottom - (bottom - top) * share, 1)

    band = [(x(p.epsilon), y(p.defended.high)) for p in points]
    band += [(x(p.epsilon), y(p.defended.low)) for p in reversed(points)]
    plot = _svg(WIDTH, 310, "Accuracy against epsilon; the table below holds the numbers")
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        plot.append(_line(left, y(share), right, y(share), "grid"))
        plot.append(_text(left - 8, y(share) + 4, f"{share:.0%}", "tick end"))
    last = float("-inf")
    for point in points:
        if x(point.epsilon) - last >= 34:  # else the labels would touch
            last = x(point.epsilon)
            plot.append(_text(last, bottom + 18, f"{point.epsilon:g}", "tick middle"))
        plot.append(_line(x(point.epsilon), bottom, x(point.epsilon), bottom + 4, "axis"))
    at = x(epsilon)
    return extend(
        plot,
        [
            _text((left + right) / 2, bottom + 38, "epsilon", "label middle"),
            element("polygon", points=_points(band), class_="band"),
            _line(at, top - 6, at, bottom, "audited"),
            _text(at, top - 12, f"audited: {epsilon:g}", "tick middle"),
            element(
                "polyline",
                points=_points([(x(p.epsilon), y(p.undefended.accuracy)) for p in points]),
                class_="line alone",
            ),
            *(
                element("rect", x=x(p.epsilon) - 3, y=y(p.undefended.accuracy) - 3, width=6,
                        height=6, class_="mark alone")
                for p in points
            ),
            element(
                "polyline",
                points=_points([(x(p.epsilon), y(p.defended.accuracy)) for p in points]),
                class_="line",
            ),
            *(
                element("circle", cx=x(p.epsilon), cy=y(p.defended.accuracy), r=3.5, class_="mark")
                for p in points
            ),
        ],
    )  # fmt: skip


def attack_plot(report: Report) -> Element:
    """A bar for each line, by level, with its interval; the worst case of each level below."""
    rows: list[tuple[str, Share, Share | None, str] | str] = ["no attacker"]
    rows.append(("clean images", report.clean.defended, report.clean.undefended, "bar"))
    for level, worst in report.worst_case_by_knowledge.items():
        rows.append(level_name(level))
        for line in report.lines:
            if line.knowledge is level:
                rows.append((_title(line), line.defended, line.undefended, "bar"))
        rows.append(("worst case per image", worst, None, "bar worst"))
    left, right, height = 214, WIDTH - 72, 22
    plot = _svg(WIDTH, height * len(rows) + 34, "Accuracy under each attack; the table below holds "
                "the numbers")  # fmt: skip

    def x(share: float) -> float:
        return round(left + (right - left) * share, 1)

    bottom = height * len(rows) + 6
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        plot.append(_line(x(share), 4, x(share), bottom, "grid"))
        plot.append(_text(x(share), bottom + 18, f"{share:.0%}", "tick middle"))
    for place, row in enumerate(rows):
        middle = place * height + height / 2 + 4
        if isinstance(row, str):
            plot.append(_text(0, middle + 5, row, "group"))
            continue
        title, share_of, alone, kind = row
        weight = "worst " if "worst" in kind else ""
        plot.append(_text(left - 10, middle + 4, title, f"{weight}label end"))
        bar = element("rect", x=left, y=middle - 7, width=max(x(share_of.accuracy) - left, 1),
                      height=14, class_=kind)  # fmt: skip
        told = f"{title}: {percent(share_of.accuracy)} ({interval(share_of)})"
        bar.append(element("title", told))
        plot.append(bar)
        extend(plot, _interval((x(share_of.low), middle), (x(share_of.high), middle)))
        if alone is not None:
            at = x(alone.accuracy)
            diamond = [(at, middle - 6), (at + 5, middle), (at, middle + 6), (at - 5, middle)]
            plot.append(element("polygon", points=_points(diamond), class_="diamond"))
        plot.append(_text(WIDTH, middle + 4, percent(share_of.accuracy), f"{weight}end"))
    return plot


def class_plot(lines: Sequence[ClassLine]) -> Element:
    """For each class its clean accuracy (frame) and worst case (bar, with its interval).

    At most `MOST_CLASSES`: of more, those with the lowest worst case.
    """
    lines = classes_shown(lines)
    left, right, top, bottom = 44, WIDTH - 8, 24, 186
    step = (right - left) / len(lines)
    width = min(step * 0.56, 44)
    plot = _svg(WIDTH, 226, "Accuracy by class; the table below holds the numbers")

    def y(share: float) -> float:
        return round(bottom - (bottom - top) * share, 1)

    for share in (0.0, 0.5, 1.0):
        plot.append(_line(left, y(share), right, y(share), "grid"))
        plot.append(_text(left - 8, y(share) + 4, f"{share:.0%}", "tick end"))
    for place, line in enumerate(lines):
        middle = round(left + step * (place + 0.5), 1)
        clean, worst = y(line.clean.accuracy), y(line.worst_case.accuracy)
        frame = element("rect", x=middle - width / 2, y=clean, width=width, height=bottom - clean,
                        class_="frame")  # fmt: skip
        bar = element("rect", x=middle - width / 2, y=worst, width=width,
                      height=max(bottom - worst, 1), class_="bar worst")  # fmt: skip
        bar.append(element("title", f"{line.label}: {percent(line.worst_case.accuracy)}"))
        high, low = y(line.worst_case.high), y(line.worst_case.low)
        extend(plot, [
            frame, bar, *_interval((middle, high), (middle, low)),
            _text(middle, bottom + 17, _short(line.label, round(step / 7)), "label middle"),
            _text(middle, bottom + 33, f"{100 * line.worst_case.accuracy:.0f}", "tick middle"),
        ])  # fmt: skip
    return plot


def interval_plot(share: Share, clean: Share) -> Element:
    """One share on a scale of 0 to 100 %, its interval, and where the clean accuracy is."""
    width, left = 300, 8

    def x(value: float) -> float:
        return round(left + (width - 2 * left) * value, 1)

    at, of_clean = x(share.accuracy), x(clean.accuracy)
    triangle = [(of_clean, 9), (of_clean - 5, 1), (of_clean + 5, 1)]
    return extend(
        _svg(width, 38, f"{interval(share)}; clean {percent(clean.accuracy)}"),
        [
            _line(left, 15, width - left, 15, "scale"),
            element("rect", x=x(share.low), y=11, width=max(x(share.high) - x(share.low), 1),
                    height=8, class_="range"),
            element("circle", cx=at, cy=15, r=6, class_="point"),
            element("polygon", points=_points(triangle), class_="clean"),
            _text(left, 35, "0 %", "tick"),
            _text(width / 2, 35, "50 %", "tick middle"),
            _text(width - left, 35, "100 %", "tick end"),
        ],
    )  # fmt: skip


def classes_shown(lines: Sequence[ClassLine]) -> Sequence[ClassLine]:
    """The classes that there is room for, in their order."""
    lowest = sorted(lines, key=lambda line: (line.worst_case.accuracy, line.index))[:MOST_CLASSES]
    return sorted(lowest, key=lambda line: line.index)


def level_name(knowledge: Knowledge) -> str:
    """Such as white-box, which no line break divides."""
    return knowledge.replace("_", "\N{NON-BREAKING HYPHEN}")


def _title(line: Line) -> str:
    return _short(f"{line.title}, {line.attacked} tried" if line.skipped else line.title, 34)


def _short(text: str, most: int) -> str:
    most = max(most, 3)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _interval(start: tuple[float, float], end: tuple[float, float]) -> list[Element]:
    """A bar's interval: a line with two caps, on a halo so that it is seen on any bar."""
    (x1, y1), (x2, y2) = start, end
    across, up = (0, 4) if y1 == y2 else (4, 0)
    strokes = [
        (x1, y1, x2, y2),
        (x1 - across, y1 - up, x1 + across, y1 + up),
        (x2 - across, y2 - up, x2 + across, y2 + up),
    ]
    return [_line(*stroke, kind) for kind in ("halo", "whisker") for stroke in strokes]


def _svg(width: float, height: float, what: str) -> Element:
    return element("svg", viewBox=f"0 0 {width} {height}", role="img", aria_label=what)


def _line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Element:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def _text(x: float, y: float, text: str, class_: str) -> Element:
    return element("text", text, x=x, y=y, class_=class_)


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)
