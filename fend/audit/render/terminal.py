"""An audit on the terminal: a bar while it runs, a table of the numbers, the verdict."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from fend.audit.render.view import view_of
from fend.audit.report import Report
from fend.errors import printable

COLOURS = {"holds": "green", "partly": "yellow", "falls": "red", "unreliable": "red"}


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, counted in images, so that standard output stays clean.

    What it gives is to be called with the images done so far, and all of them.
    """
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(printable(title), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say(message: str) -> None:
    """A line on standard error."""
    Console(stderr=True).print(printable(message), soft_wrap=True, markup=False, highlight=False)


def in_words(seconds: float) -> str:
    """A time, such as "12 minutes"."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def say_making(folder: Path) -> None:
    """Tell that a surrogate is trained before the audit begins."""
    say(f"Training a surrogate, once for this version of the model; it is kept in {folder}")


def show(report: Report) -> None:
    """Print the attacks, the worst case at each level, failed sanity checks and the verdict."""
    view, console = view_of(report), Console()
    attacks = table("Attacker", "Attack", "Gradient through", "Accuracy", "95 %", "No denoiser")
    attacks.caption = "Worst case: images that are answered right clean and under every attack."
    for row in view.rows:
        add_row(attacks, row.cells, bold=row.is_worst_case)
    console.print(attacks)
    if view.curve:
        curve = table("Epsilon", "White-box", "95 %", "No denoiser", "95 %")
        for cells in view.curve:
            add_row(curve, cells)
        curve.caption = "Without the denoiser the classifier is attacked for itself."
        console.print(curve)
    console.print(f"Preset: {printable(view.preset)}", highlight=False, markup=False)
    for check in view.failed:
        console.print("sanity check failed", style="red", end="")
        console.print(f": {check.name}: {printable(check.text)}", highlight=False, markup=False)
        console.print(f"  {check.advice.do}", highlight=False, markup=False)
    passed, failed = (
        sum(check.passed is state for check in view.checks) for state in (True, False)
    )
    if passed + failed:
        told = f"{passed} of {passed + failed} checks of the attacks passed"
        console.print(told, highlight=False)
    outcome = view.outcome
    console.print(outcome.word, style=f"bold {COLOURS[outcome.state]}", end=": ")
    console.print(outcome.sentence, highlight=False)
    console.print(printable(report.verdict), highlight=False, markup=False, style="bold")


def table(*head: str) -> Table:
    return Table(*(Column(name, no_wrap="%" in name or name == "Accuracy") for name in head))


def add_row(table: Table, cells: Sequence[str], *, bold: bool = False) -> None:
    """Add a row, with short intervals. Cells are shown as they are: `[red]` is no colour."""
    table.add_row(
        *(Text(printable(cell).replace(" % to ", "-")) for cell in cells),
        style="bold" if bold else None,
    )
