"""The cells, one after another or in several processes, with a progress bar."""

from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed

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
from reproduction.run_cell import Paths, Say, run_cell


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
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=len(todo))

        def say(text: str) -> None:
            bar.update(task, description=text)

        for cell, problem in _outcomes(todo, paths, workers, say):
            if problem is None:
                console.print(f"[green]done[/] {cell.name}", highlight=False)
            else:
                failed[cell.name] = problem
                console.print(f"[red]not run[/] {cell.name}: {problem}", highlight=False)
            bar.advance(task)
    return failed


def _outcomes(
    cells: Sequence[Cell], paths: Paths, workers: int, say: Say
) -> Iterator[tuple[Cell, str | None]]:
    """Each cell as it is finished, and what is missing to run it."""
    if workers == 1:
        for cell in cells:
            say(cell.name)
            yield cell, _run(cell, paths, say)
        return
    say(f"{workers} processes")
    with process_pool(min(workers, len(cells))) as pool:
        futures = {pool.submit(_run, cell, paths): cell for cell in cells}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _run(cell: Cell, paths: Paths, say: Say = lambda _: None) -> str | None:
    """None, or what is missing to run it."""
    torch.set_num_threads(1)
    try:
        run_cell(cell, paths, lambda stage: say(f"{cell.name}: {stage}"))
    except FendError as error:
        return f"{error}"
    return None
