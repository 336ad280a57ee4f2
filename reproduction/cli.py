"""`fend reproduce`: the paper's evaluation in one command that can be stopped at any moment."""

from pathlib import Path
from typing import Annotated

import typer

from fend.cli.folders import DATA_DIR, DataDir
from fend.files import check_folder


def reproduce(
    profile: Annotated[
        str,
        typer.Option(
            help="Budget: full (a GPU), cpu (two cores, hours) or smoke (a trial, minutes)."
        ),
    ] = "cpu",
    data: Annotated[
        list[str] | None,
        typer.Option(help="Data set: mnist, cifar10-grey, cifar10; repeat for more. Default: all."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Defence such as feature-loss, or ablation; repeat. Default: all."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Seeds of each row; default: the profile's, more for the paper's rows."
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder of results, tables, pictures, and all that is needed to go on."),
    ] = Path("runs/reproduction"),
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Run nothing: write the tables anew.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(min=0, help="Processes of one thread; 0: one for each core, or one on a GPU."),
    ] = 0,
    device: Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:1, ...")] = "auto",
    data_dir: DataDir = DATA_DIR,
) -> None:
    """Train every defence, attack it as the paper does and harder, and write its tables.

    What is finished is kept in OUT and not done again.
    """
    import os

    import torch
    from rich.console import Console

    from reproduction.cells import plan
    from reproduction.figure import check_libraries
    from reproduction.run_cell import Paths
    from reproduction.work import run_cells
    from reproduction.write import draw_all, write_tables

    console = Console()
    check_folder("--out", out)
    cells = plan(profile, data=data or [], only=only or [], seeds=seeds)
    check_libraries()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    paths = Paths(out, data_dir, device)
    failed: dict[str, str] = {}
    if not tables_only:
        workers = workers or ((os.cpu_count() or 1) if device == "cpu" else 1)
        failed = run_cells(cells, paths, workers, console)
    for path in [*write_tables(out, cells), *draw_all(cells, paths)]:
        console.print(f"[green]written[/] {path}", soft_wrap=True)
    if failed:
        raise typer.Exit(1)
