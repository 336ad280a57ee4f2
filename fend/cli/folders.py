"""Where models and data sets are, for every command and for the service."""

from pathlib import Path
from typing import Annotated

import typer

MODELS_DIR = Path("models")
DATA_DIR = Path(".fend/data")
SHIPPED_MODELS_DIR = Path(__file__).parents[1] / "shipped"
"""Put there by setup.py; a checkout has MODELS_DIR instead."""


def default_models_dir() -> Path:
    """./models where it is a folder, else the models that were installed with Fend."""
    shipped = SHIPPED_MODELS_DIR.is_dir() and not MODELS_DIR.is_dir()
    return SHIPPED_MODELS_DIR if shipped else MODELS_DIR


def checked_data_dir(folder: Path) -> Path:
    """`folder`; the default one may be missing, because some data sets need no files.

    Raises:
        ValueError: it is not there, or no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    if not folder.exists() and folder != DATA_DIR:
        raise ValueError(f"there is no folder {folder}; `fend data fetch` or mkdir makes one")
    return folder


def _models_dir(context: typer.Context, folder: Path) -> Path:
    source = context.get_parameter_source("models_dir")
    return default_models_dir() if source is None or source.name == "DEFAULT" else folder


def _data_dir(folder: Path) -> Path:
    try:
        return checked_data_dir(folder)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


ModelsDir = Annotated[
    Path,
    typer.Option(
        envvar="FEND_MODELS_DIR",
        callback=_models_dir,
        help="Folder of models, one folder each.",
        show_default="./models, or else those that were installed with Fend",
    ),
]
DataDir = Annotated[
    Path,
    typer.Option(
        envvar="FEND_DATA_DIR", callback=_data_dir, help="Folder that `fend data fetch` fills."
    ),
]
