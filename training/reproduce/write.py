"""From what lies in the output folder to tables, figures and pictures."""

from collections.abc import Sequence
from pathlib import Path

from training.reproduce.cells import Cell
from training.reproduce.figure import draw
from training.reproduce.markdown import to_markdown
from training.reproduce.pictures import draw_pictures
from training.reproduce.result import read_results, write_whole
from training.reproduce.run_cell import Places
from training.reproduce.tables import tables_of

PICTURED = ("unsecured", "feature-loss")


def write_tables(out: Path, cells: Sequence[Cell]) -> list[Path]:
    """Markdown, JSON and a figure for each data set of `cells` and epsilon.

    They hold every result in `out`, whatever run or profile made it; equal results, equal bytes.
    """
    written = []
    for table in tables_of(read_results(out), list(dict.fromkeys(cell.data for cell in cells))):
        stem = out / f"{table.data}-{round(table.epsilon * 255)}"
        write_whole(stem.with_suffix(".md"), to_markdown(table))
        write_whole(stem.with_suffix(".json"), table.model_dump_json(indent=1) + "\n")
        draw(table, stem.with_suffix(".svg"))
        written += [stem.with_suffix(suffix) for suffix in (".md", ".json", ".svg")]
    return written


def draw_all(cells: Sequence[Cell], places: Places) -> list[Path]:
    """Pictures of the first seed of some defences, where their bundles are there.

    They show images of the data set.
    """
    written = []
    for cell in cells:
        if cell.group == "defences" and cell.defence in PICTURED and cell.seed == 0:
            bundle_dir = places.work(cell.profile) / "models" / cell.recipe.name
            folder = places.out / "pictures"
            written += draw_pictures(cell, bundle_dir, places.data_dir, folder)
    return written
