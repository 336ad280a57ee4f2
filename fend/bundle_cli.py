"""`fend bundle`: look into a model on disk, and check it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fend.bundle import describe, load_bundle, read_manifest

app = typer.Typer(no_args_is_help=True, help="Inspect and verify models on disk.")

Folder = Annotated[Path, typer.Argument(help="The bundle's folder.")]


@app.command("inspect")
def inspect(folder: Folder) -> None:
    """Show the manifest as JSON; no weights are read."""
    typer.echo(json.dumps(read_manifest(folder).model_dump(mode="json"), indent=2))


@app.command("verify")
def verify(folder: Folder) -> None:
    """Check every digest, build the networks, and show what they are."""
    bundle = load_bundle(folder)
    for key, value in describe(bundle.manifest, bundle.defence).items():
        typer.echo(f"{key}: {value}")
    typer.echo("The bundle is whole.")
