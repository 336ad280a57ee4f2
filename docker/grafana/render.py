"""Draw the dashboard without Grafana: its panels' own queries, answered by a real Prometheus.

    python docker/grafana/render.py http://127.0.0.1:9090 dashboard.png --minutes 15

For documentation and for looking at a change of the dashboard where no Grafana runs. It knows the
panel types and options that dashboards/fend.json uses, and no others.
"""

import argparse
import json
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

matplotlib.use("agg")

DASHBOARD = Path(__file__).parent / "dashboards/fend.json"
POINTS = 240
SCRAPE_S = 5
COLUMN_IN = 0.75
ROW_IN = 0.42

BACKGROUND, PANEL, EDGE, TEXT, DIM = "#111217", "#181b1f", "#2a2d33", "#d8d9da", "#8e9199"
LINES = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#8ab8ff", "#ff7383", "#96d98d",
         "#ffcb7d", "#ca95e5"]  # fmt: skip
NAMED = {"green": "#73bf69", "yellow": "#f2cc0c", "orange": "#ff9830", "red": "#f2495c",
         "blue": "#5794f2"}  # fmt: skip


class Prometheus:
    """Answers a dashboard's queries for the last `minutes`."""

    def __init__(self, url: str, minutes: float) -> None:
        self._url = url
        self.end_s = time.time()
        self.start_s = self.end_s - 60 * minutes
        self._step_s = max(SCRAPE_S, round((self.end_s - self.start_s) / POINTS))

    def range(self, query: str) -> list[Any]:
        """Each series as (labels, times, values)."""
        window = {"start": self.start_s, "end": self.end_s, "step": self._step_s}
        return [
            (found["metric"], *np.array(found["values"], dtype=float).T)
            for found in self._get("query_range", query, window)
        ]

    def now(self, query: str) -> list[Any]:
        """Each series as (labels, value)."""
        found = self._get("query", query, {"time": self.end_s})
        return [(series["metric"], float(series["value"][1])) for series in found]

    def _get(self, path: str, query: str, more: dict[str, float]) -> list[Any]:
        # As Grafana does: four scrapes, or a step and a scrape where that is longer.
        window_s = max(4 * SCRAPE_S, self._step_s + SCRAPE_S)
        query = query.replace("$__rate_interval", f"{window_s}s").replace("$model", ".*")
        parameters = urllib.parse.urlencode({"query": query, **more})
        with urllib.request.urlopen(f"{self._url}/api/v1/{path}?{parameters}") as answer:
            result: list[Any] = json.load(answer)["data"]["result"]
            return result


def shown(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit, as short as Grafana writes it."""
    if not np.isfinite(value):
        return "-"
    if unit == "percentunit":
        return f"{100 * value:.{1 if decimals is None else decimals}f}%"
    if unit == "s":
        for factor, name in ((1e-6, "µs"), (1e-3, "ms"), (1.0, "s"), (60.0, "min")):
            if abs(value) < 1000 * factor or name == "min":
                return f"{value / factor:.3g} {name}"
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    text = f"{value:.{decimals}f}" if decimals is not None else f"{value:.3g}"
    return f"{text} req/s" if unit == "reqps" else text


def legend_of(target: Any, labels: dict[str, str]) -> str:
    return re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), target["legendFormat"])


def threshold_color(defaults: Any, value: float) -> str:
    color = TEXT
    for step in defaults.get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            color = NAMED[step["color"]]
    return color


def fixed_color(panel: Any, name: str) -> str | None:
    for override in panel["fieldConfig"]["overrides"]:
        if re.search(override["matcher"]["options"].strip("/"), name):
            return NAMED[override["properties"][0]["value"]["fixedColor"]]
    return None


# ---- panels


def draw_stat(axes: Axes, panel: Any, prometheus: Prometheus) -> None:
    [target] = panel["targets"]
    defaults, options = panel["fieldConfig"]["defaults"], panel["options"]
    axes.set_axis_off()
    axes.set_ylim(0, 1)
    axes.set_xlim(prometheus.start_s, prometheus.end_s)
    series = sorted(prometheus.range(target["expr"]), key=lambda item: sorted(item[0].items()))
    if not series:
        axes.text(0.5, 0.5, "No data", color=DIM, ha="center", transform=axes.transAxes)
    for number, (labels, times, values) in enumerate(series):
        known = values[np.isfinite(values)]
        last = float(known[-1]) if len(known) else float("nan")
        color = threshold_color(defaults, last)
        text = shown(last, defaults["unit"], defaults.get("decimals"))
        for mapping in defaults.get("mappings", []):
            text = mapping["options"].get(f"{last:g}", {"text": text})["text"]
        middle = {"x": (number + 0.5) / len(series), "ha": "center", "transform": axes.transAxes}
        axes.text(
            y=0.58, s=text, color=color, fontsize=22, fontweight="bold", va="center", **middle
        )
        if options["textMode"] == "value_and_name":
            axes.text(y=0.12, s=legend_of(target, labels), color=DIM, fontsize=9, **middle)
        if options["graphMode"] == "area" and len(values) > 1:
            line = values / (np.nanmax(values) or 1) * 0.3
            axes.fill_between(times, line, color=color, alpha=0.25, lw=0)
            axes.plot(times, line, color=color, lw=1, alpha=0.8)


def draw_timeseries(axes: Axes, panel: Any, prometheus: Prometheus) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    custom, unit = defaults["custom"], defaults["unit"]
    lines = [
        (legend_of(target, labels), times, values)
        for target in panel["targets"]
        for labels, times, values in prometheus.range(target["expr"])
    ]
    lines.sort(key=lambda line: line[0])
    stacking = custom.get("stacking", {}).get("mode")
    if stacking and lines:
        draw_stack(axes, panel, lines, stacking)
    for number, (name, times, values) in enumerate(lines if not stacking else []):
        color = fixed_color(panel, name) or LINES[number % len(LINES)]
        drawstyle = "steps-post" if custom.get("lineInterpolation") == "stepAfter" else "default"
        axes.plot(times, values, color=color, lw=1.5, drawstyle=drawstyle, label=name)
        if custom["fillOpacity"]:
            axes.fill_between(times, values, color=color, alpha=custom["fillOpacity"] / 100, lw=0)
    top = axes.get_ylim()[1]
    axes.set_ylim(defaults.get("min", min(0, axes.get_ylim()[0])), defaults.get("max", top))
    percent = "percentunit" if stacking == "percent" else unit
    axes.yaxis.set_major_formatter(
        lambda value, _: shown(value, percent, 0 if percent == "percentunit" else None)
    )
    axes.grid(axis="y", color=EDGE, lw=0.6)
    axes.set_axisbelow(True)
    time_axis(axes, prometheus)
    if not lines:
        axes.text(0.5, 0.5, "No data", color=DIM, ha="center", transform=axes.transAxes)
        return
    table = panel["options"]["legend"]["displayMode"] == "table"
    handles, names = axes.get_legend_handles_labels()
    if table:
        last = {name: values[np.isfinite(values)][-1] for name, _, values in lines}
        names = [f"{name}    {shown(last[name], unit)}" for name in names]
    axes.legend(
        handles, names, loc="upper left", bbox_to_anchor=(-0.02, -0.1), frameon=False,
        ncols=2 if table else min(len(names), 5), fontsize=7.5, labelcolor=TEXT,
        handlelength=1, handletextpad=0.4, columnspacing=1.2, borderaxespad=0,
    )  # fmt: skip


def draw_stack(axes: Axes, panel: Any, lines: list[Any], mode: str) -> None:
    """Lines on top of each other; as shares of their sum where the mode is percent."""
    times = np.unique(np.concatenate([line[1] for line in lines]))
    rows = np.zeros((len(lines), len(times)))
    for row, (_, at, values) in zip(rows, lines, strict=True):
        row[np.searchsorted(times, at)] = np.nan_to_num(values)
    if mode == "percent":
        total = rows.sum(axis=0)
        rows = np.divide(rows, total, out=np.zeros_like(rows), where=total > 0)
    colors = [fixed_color(panel, line[0]) or LINES[n % len(LINES)] for n, line in enumerate(lines)]
    alpha = panel["fieldConfig"]["defaults"]["custom"]["fillOpacity"] / 100
    names = [line[0] for line in lines]
    axes.stackplot(times, rows, labels=names, colors=colors, alpha=alpha, lw=0)
    if mode == "percent":
        axes.set_ylim(0, 1)


def draw_heatmap(axes: Axes, panel: Any, prometheus: Prometheus) -> None:
    [target] = panel["targets"]
    series = sorted(prometheus.range(target["expr"]), key=lambda item: float(item[0]["le"]))
    time_axis(axes, prometheus)
    if not series:
        axes.text(0.5, 0.5, "No data", color=DIM, ha="center", transform=axes.transAxes)
        return
    times = series[0][1]
    cumulative = np.array([np.nan_to_num(values) for _, _, values in series])
    counts = np.diff(cumulative, axis=0, prepend=0)
    counts = np.where(counts > 0, counts, np.nan) ** panel["options"]["color"]["exponent"]
    edges = np.append(times, times[-1] + (times[-1] - times[-2])) - (times[-1] - times[-2])
    scheme = panel["options"]["color"]["scheme"] + "_r"
    axes.pcolormesh(edges, np.arange(len(series) + 1), counts, cmap=scheme, shading="flat")
    names = [labels["le"].removesuffix(".0").replace("+Inf", "more") for labels, *_ in series]
    every = max(1, len(names) // 8)
    axes.set_yticks(np.arange(len(names))[::every] + 0.5, names[::every])


def draw_bargauge(axes: Axes, panel: Any, prometheus: Prometheus) -> None:
    [target] = panel["targets"]
    defaults = panel["fieldConfig"]["defaults"]
    bars = [(legend_of(target, labels), value) for labels, value in prometheus.now(target["expr"])]
    bars.sort(reverse=True)
    for number, (name, value) in enumerate(bars):
        axes.barh(number, 1, height=0.45, color=EDGE)
        axes.barh(number, value, height=0.45, color=threshold_color(defaults, value))
        axes.text(0, number + 0.32, name, color=TEXT, fontsize=8, va="bottom")
        text = shown(value, defaults["unit"], defaults["decimals"])
        axes.text(1, number + 0.32, text, color=TEXT, fontsize=9, va="bottom", ha="right")
    axes.set_ylim(-0.5, max(len(bars), 2) - 0.1)
    axes.set_axis_off()


def draw_table(axes: Axes, panel: Any, prometheus: Prometheus) -> None:
    [target] = panel["targets"]
    columns = panel["transformations"][0]["options"]["indexByName"]
    axes.set_axis_off()
    rows = [labels for labels, _ in prometheus.now(target["expr"])]
    widths = {"model": 0.14, "version": 0.3, "denoiser": 0.2, "classifier": 0.18, "instance": 0.18}
    x = 0.0
    for column in columns:
        axes.text(x, 0.93, column, color="#6e9fff", fontsize=8.5, transform=axes.transAxes)
        for number, row in enumerate(rows):
            text = row[column][:22] + ("…" if len(row[column]) > 22 else "")
            axes.text(x, 0.76 - 0.17 * number, text, color=TEXT, fontsize=8.5,
                      transform=axes.transAxes)  # fmt: skip
        x += widths[column]


def time_axis(axes: Axes, prometheus: Prometheus) -> None:
    ticks = np.linspace(prometheus.start_s, prometheus.end_s, 6)[1:-1]
    axes.set_xlim(prometheus.start_s, prometheus.end_s)
    axes.set_xticks(ticks, [time.strftime("%H:%M", time.localtime(tick)) for tick in ticks])
    axes.tick_params(colors=DIM, labelsize=7.5, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


DRAW = {
    "stat": draw_stat,
    "timeseries": draw_timeseries,
    "heatmap": draw_heatmap,
    "bargauge": draw_bargauge,
    "table": draw_table,
}


# ---- the page


def render(prometheus: Prometheus, out: Path) -> None:
    """Draw every panel where Grafana would put it."""
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = Figure(figsize=(24 * COLUMN_IN, rows * ROW_IN), facecolor=BACKGROUND)
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, 24), ylim=(rows, 0))
    page.set_axis_off()
    for panel in panels:
        x, y, w, h = (panel["gridPos"][key] for key in "xywh")
        if panel["type"] == "row":
            page.text(x + 0.15, y + 0.62, f"⌄ {panel['title']}", color=TEXT, fontsize=12,
                      fontweight="bold", va="center")  # fmt: skip
            continue
        box = (x + 0.08, y + 0.1)
        style = {"boxstyle": "round,pad=0,rounding_size=0.08", "lw": 0.8}
        page.add_patch(
            FancyBboxPatch(box, w - 0.16, h - 0.2, facecolor=PANEL, edgecolor=EDGE, **style)
        )
        page.text(x + 0.25, y + 0.55, panel["title"], color=TEXT, fontsize=9.5, va="center")
        left, right, top, bottom = margins(panel)
        place = (
            (x + left) / 24, 1 - (y + h - bottom) / rows,
            (w - left - right) / 24, (h - top - bottom) / rows,
        )  # fmt: skip
        DRAW[panel["type"]](figure.add_axes(place, facecolor="none"), panel, prometheus)
    figure.savefig(out, dpi=80)


def margins(panel: Any) -> tuple[float, float, float, float]:
    """Left, right, top, bottom, in cells of the grid: room for axis labels and a legend."""
    if panel["type"] in ("timeseries", "heatmap"):
        table = panel["options"]["legend"].get("displayMode") == "table"
        return 0.95, 0.3, 1.0, 3.0 if table else 1.9 if panel["type"] == "timeseries" else 1.0
    return 0.3, 0.3, 1.0, 0.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prometheus", help="its address")
    parser.add_argument("out", type=Path, help="the picture")
    parser.add_argument("--minutes", type=float, default=15)
    arguments = parser.parse_args()
    render(Prometheus(arguments.prometheus, arguments.minutes), arguments.out)


if __name__ == "__main__":
    main()
