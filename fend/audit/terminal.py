"""An audit on the terminal: a bar while it runs, a table of the numbers, the verdict."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fend.audit.report import Line, Report, Share, percent


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, counted in images, so that standard output stays clean.

    What it gives is to be called with the images done so far, and all of them.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def say_making(folder: Path) -> None:
    """Tell that a surrogate is trained before the audit begins."""
    Console(stderr=True).print(
        f"Training a surrogate, once for this version of the model; it is kept in {folder}",
        soft_wrap=True, markup=False, highlight=False,
    )  # fmt: skip


def show(report: Report) -> None:
    """Print the lines, the worst case at each level, the failed sanity checks and the verdict."""
    console = Console()
    console.print(_numbers(report))
    if report.curve:
        console.print(_curve(report))
    for line in report.sanity:
        if line.passed is False:
            console.print(f"[red]sanity check failed[/]: {line.name}: {line.text}", highlight=False)
            console.print(f"  {line.advice.do}", highlight=False)
    tried = [line for line in report.sanity if line.passed is not None]
    if tried:
        passed = sum(line.passed is True for line in tried)
        console.print(f"{passed} of {len(tried)} sanity checks passed", highlight=False)
    console.print(report.verdict, highlight=False, markup=False, style="bold")


def _numbers(report: Report) -> Table:
    table = Table(
        "Attacker", "Attack", "Gradient through", "Accuracy", "95 %", "No denoiser",
        caption="Worst case: images that are answered right clean and under every attack above.",
    )  # fmt: skip
    table.add_row(
        "none", "clean images", "-", *_cells(report.clean.defended),
        percent(report.clean.undefended.accuracy),
    )  # fmt: skip
    for line in report.lines:
        table.add_row(*_line(line))
    table.add_section()
    for knowledge, share in report.worst_case_by_knowledge.items():
        table.add_row(knowledge, "worst case", "", *_cells(share), style="bold")
    table.add_row("all", "worst case", "", *_cells(report.worst_case), style="bold")
    return table


def _line(line: Line) -> tuple[str, ...]:
    title = f"{line.title} (on {line.attacked})" if line.skipped else line.title
    undefended = "" if line.undefended is None else percent(line.undefended.accuracy)
    return (line.knowledge, title, line.gradient_through, *_cells(line.defended), undefended)


def _curve(report: Report) -> Table:
    table = Table("Epsilon", "White-box accuracy", "95 %", "No denoiser, attacked itself")
    for point in report.curve:
        table.add_row(
            f"{point.epsilon:g}", *_cells(point.defended), percent(point.undefended.accuracy)
        )
    return table


def _cells(share: Share) -> tuple[str, str]:
    return percent(share.accuracy), f"{100 * share.low:.1f}-{100 * share.high:.1f} %"
