"""The cells, one after another or in several processes, with a progress bar."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fend.audit.executors import process_pool
from fend.errors import FendError
from reproduction.cells import Cell
from reproduction.result import is_done
from reproduction.run_cell import Paths, run_cell


def run_cells(
    cells: Sequence[Cell], paths: Paths, workers: int, console: Console
) -> dict[str, str]:
    """Run those of `cells` that have no result yet, `workers` at a time (1: in this process).

    Returns, by the name of the cell, why those that could not be run were not.
    """
    failed: dict[str, str] = {}
    todo = [cell for cell in cells if not is_done(paths.out, cell)]
    console.print(f"{len(cells) - len(todo)} of {len(cells)} cells are done", highlight=False)
    if not todo:
        return failed
    with _bar(len(todo), console) as (say, advance):
        if workers == 1:
            for cell in todo:
                say(cell.name)
                _note(failed, cell, _run(cell, paths, say), console)
                advance()
            return failed
        with process_pool(min(workers, len(todo))) as pool:
            futures = {pool.submit(_run, cell, paths): cell for cell in todo}
            say(f"{workers} processes")
            for future in as_completed(futures):
                _note(failed, futures[future], future.result(), console)
                advance()
    return failed


def _run(cell: Cell, paths: Paths, say: Callable[[str], None] = lambda _: None) -> str | None:
    """None, or what is missing to run it."""
    torch.set_num_threads(1)
    try:
        run_cell(cell, paths, lambda stage: say(f"{cell.name}: {stage}"))
    except FendError as error:
        return f"{error}"
    return None


def _note(failed: dict[str, str], cell: Cell, problem: str | None, console: Console) -> None:
    if problem is None:
        console.print(f"[green]done[/] {cell.name}", highlight=False)
    else:
        failed[cell.name] = problem
        console.print(f"[red]not run[/] {cell.name}: {problem}", highlight=False)


@contextmanager
def _bar(
    total: int, console: Console
) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("", total=total)
        yield (
            lambda text: progress.update(task, description=text),
            lambda: progress.advance(task),
        )
