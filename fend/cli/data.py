"""`fend data`: which data sets there are, and fetching the published ones.

`fend.datasets` is imported in the commands: torch would keep `--help` waiting.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn
from rich.table import Table

from fend.cli.folders import DATA_DIR, DataDir

app = typer.Typer(no_args_is_help=True, help="List and fetch data sets.")


@app.command("list")
def list_data(data_dir: DataDir = DATA_DIR) -> None:
    """Show every data set and whether its files are here."""
    from fend.datasets.registry import SPEC_FORMS

    table = Table("Spec", "What it is", "State")
    for entry in SPEC_FORMS:
        table.add_row(entry.form, entry.description, _state(entry.form, data_dir))
    console = Console()
    console.print(table)
    console.print(f"Data directory: {data_dir}", soft_wrap=True, markup=False)


@app.command("fetch")
def fetch(
    name: Annotated[
        str, typer.Argument(help="Data set, such as mnist; `fend data list` shows all.")
    ],
    data_dir: Annotated[
        Path,
        typer.Option(
            envvar="FEND_DATA_DIR",
            file_okay=False,
            help="Folder of data sets; made if it does not exist.",
        ),
    ] = DATA_DIR,
) -> None:
    """Download a published data set, check it, and keep what was there already."""
    from fend.datasets.download import download

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = {}

        def show(file_name: str, done_bytes: int, total_bytes: int) -> None:
            if file_name not in tasks:
                tasks[file_name] = bars.add_task(file_name, total=total_bytes)
            bars.update(tasks[file_name], completed=done_bytes)

        download(name, data_dir, show)
    Console().print(f"{name} is in {data_dir}", soft_wrap=True, markup=False)


def _state(form: str, data_dir: Path) -> str:
    from fend.datasets import MissingDatasetError, cifar10, gtsrb, imagenette, mnist
    from fend.datasets.registry import fetched_with

    try:
        if form.startswith("mnist"):
            for split in mnist.FILES:
                mnist.find_files(split, data_dir)
        elif form.startswith("cifar10"):
            for split in cifar10.FILES:
                cifar10.find_files(split, data_dir)
        elif form.startswith("gtsrb"):
            for split in gtsrb.SPLITS:
                gtsrb.find_file(split, data_dir)
        elif form.startswith("imagenette"):
            imagenette.find_folder(data_dir)
        else:
            return "-" if "PATH" in form else "built in"
    except MissingDatasetError:
        if form.startswith("gtsrb"):
            return "missing: docs/training.md says how to save it"
        return f"missing: fend data fetch {fetched_with(form)}"
    return "here"
