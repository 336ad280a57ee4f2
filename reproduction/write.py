"""From what lies in the output folder to tables, figures and pictures."""

from collections.abc import Sequence
from pathlib import Path

from fend.files import replace_atomically
from reproduction.cells import EPSILONS, Cell
from reproduction.figure import draw
from reproduction.markdown import in_words, to_markdown
from reproduction.pictures import draw_pictures
from reproduction.result import read_results
from reproduction.run_cell import Paths
from reproduction.tables import tables_of

PICTURED = ("unsecured", "feature-loss")


def write_tables(out: Path, cells: Sequence[Cell]) -> list[Path]:
    """Markdown, JSON and a figure for each data set of `cells` and epsilon.

    They hold every result in `out`, whatever run or profile made it; equal results, equal bytes.
    """
    written = []
    for table in tables_of(read_results(out), list(dict.fromkeys(cell.data for cell in cells))):
        first = table.epsilon == EPSILONS[table.data][0]
        name = table.data if first else f"{table.data}-{in_words(table.epsilon).replace('/', '-')}"
        markdown, json, figure = (out / f"{name}.{suffix}" for suffix in ("md", "json", "svg"))
        replace_atomically(markdown, to_markdown(table))
        replace_atomically(json, table.model_dump_json(indent=1) + "\n")
        draw(table, figure)
        written += [markdown, json, figure]
    return written


def draw_all(cells: Sequence[Cell], paths: Paths) -> list[Path]:
    """Pictures of the first seed of some defences, where their bundles are there.

    They show images of the data set.
    """
    written = []
    for cell in cells:
        if cell.group == "defences" and cell.defence in PICTURED and cell.seed == 0:
            bundle_dir = paths.work(cell.profile) / "models" / cell.recipe.name
            folder = paths.out / "pictures"
            written += draw_pictures(cell, bundle_dir, paths.data_dir, folder)
    return written
