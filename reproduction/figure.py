"""A table as a figure: for each defence what holds clean, grey-box and white-box."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fend.errors import extra_missing
from fend.threat import Knowledge
from reproduction.estimates import Estimate
from reproduction.markdown import in_words
from reproduction.tables import DataTable, Row

BARS = (
    ("clean", "#9aa5b1"),
    ("FGSM, grey-box", "#74a9cf"),
    ("PGD, grey-box", "#2b8cbe"),
    ("white-box, all attacks", "#c1440e"),
)


def check_libraries() -> None:
    """Raises Unavailable where what trains or draws is missing: before hours of work."""
    for name in ("tensorboard", "matplotlib"):
        if find_spec(name) is None:
            raise extra_missing(f"`fend reproduce` needs {name}", "train,bench")


def draw(table: DataTable, path: Path) -> None:
    """Write the figure to `path` (SVG); the same table gives the same bytes."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = [row for row in table.rows if row.made is not None]
    height = 1.2 + 0.8 * max(len(rows), 1)
    with pyplot.rc_context({"svg.hashsalt": "fend", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(8, height))
        for place, row in enumerate(rows):
            _draw_row(axes, place, row)
        for name, colour in BARS:
            axes.barh([-9], [0], color=colour, label=name)
        axes.plot([-9], [-9], "D", color="black", label="the paper says")
        axes.set(
            xlim=(0, 100),
            ylim=(len(rows) - 0.4, -0.6),
            xlabel="accuracy, %",
            title=f"{table.data}, epsilon {in_words(table.epsilon)}",
        )
        axes.set_yticks(range(len(rows)), [row.title.replace("`", "") for row in rows])
        axes.legend(loc="upper center", bbox_to_anchor=(0.35, -0.9 / height), ncols=3)
        figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
        pyplot.close(figure)


def _draw_row(axes: Any, place: int, row: Row) -> None:
    assert row.clean is not None, "only rows that were run are drawn"
    grey, white = row.levels[Knowledge.GREY_BOX], row.levels[Knowledge.WHITE_BOX]
    values = (row.clean, grey["fgsm"], grey["pgd"], white["worst"])
    for number, (value, (_, colour)) in enumerate(zip(values, BARS, strict=True)):
        y = place + 0.2 * (number - 1.5)
        axes.barh(y, 100 * value.mean, 0.18, xerr=_error(value), color=colour, ecolor="#333333")
    for number, attack in ((1, "fgsm"), (2, "pgd")):
        if attack in row.paper:
            axes.plot(row.paper[attack], place + 0.2 * (number - 1.5), "D", color="black", ms=4)


def _error(value: Estimate) -> list[list[float]]:
    return [[100 * (value.mean - value.low)], [100 * (value.high - value.mean)]]
