"""`fend bundle`: look into models on disk, check them, and add new versions.

`fend.bundles` is imported in the commands: torch would keep `--help` waiting.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from fend.cli.folders import MODELS_DIR, ModelsDir
from fend.errors import FendError, Unavailable

app = typer.Typer(no_args_is_help=True, help="Inspect, verify and add models on disk.")

Folder = Annotated[Path, typer.Argument(help="The bundle's folder.")]


@app.command("inspect")
def inspect(folder: Folder) -> None:
    """Show the manifest as JSON; no weights are read."""
    from fend.bundles import read_manifest

    typer.echo(json.dumps(read_manifest(folder).model_dump(mode="json"), indent=2))


@app.command("verify")
def verify(folder: Folder) -> None:
    """Check every digest, build the networks, let them answer, and show what they are."""
    from fend.bundles import describe, load_bundle
    from fend.bundles.canary import check_canary

    bundle = load_bundle(folder)
    check_canary(bundle)
    for key, value in describe(bundle.manifest, bundle.defence).items():
        typer.echo(f"{key}: {value}")
    typer.echo("The bundle is whole.")


@app.command("list")
def list_models(models_dir: ModelsDir = MODELS_DIR) -> None:
    """Show every version of every model; no weights are read."""
    from fend.bundles.versions import model_folders

    shown = [_show(model) for model in model_folders(models_dir)]
    if not any(shown):
        raise Unavailable(
            f"{models_dir} holds no bundle; `fend bundle add` adds one", code="bundle_missing"
        )


@app.command("versions")
def versions(
    name: Annotated[str, typer.Argument(help="The model.")], models_dir: ModelsDir = MODELS_DIR
) -> None:
    """Show every version of one model; no weights are read."""
    from fend.bundles.versions import model_folders

    for model in model_folders(models_dir):
        if model.name == name and _show(model):
            return
    raise Unavailable(
        f"{models_dir} holds no bundle of {name!r}; `fend bundle list` shows all",
        code="bundle_missing",
    )


@app.command("add")
def add(
    source: Annotated[
        Path, typer.Argument(help="A bundle's folder, or a .zip, .tar or .tar.gz of one.")
    ],
    models_dir: Annotated[
        Path,
        typer.Option(envvar="FEND_MODELS_DIR", help="Folder of models; made if it does not exist."),
    ] = MODELS_DIR,
    max_bytes: Annotated[int, typer.Option(min=1, help="Most bytes to unpack.")] = 2**30,
    activate: Annotated[
        bool, typer.Option("--activate", help="Let the service at --url serve it at once.")
    ] = False,
    url: Annotated[
        str | None, typer.Option(help="Service that serves --models-dir, for --activate.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with that service's admin token; else FEND_ADMIN_TOKEN."),
    ] = None,
) -> None:
    """Check a bundle and put it beside the other versions of its model."""
    from fend.bundles.add import add_bundle
    from fend.cli.admin_token import admin_token
    from fend.client import Client

    if activate != (url is not None):
        raise typer.BadParameter("--activate and --url go together")
    token = admin_token(token_file) if activate else None
    folder, manifest = add_bundle(source, models_dir, max_bytes)
    typer.echo(f"added: {folder}")
    typer.echo(f"version: {manifest.version}")
    if url is None:
        return
    with Client(url, key=token, timeout_s=120.0) as service:
        service.activate(manifest.name, manifest.version)
    typer.echo(f"{url} serves it now.")


def _show(model: Path) -> bool:
    """One line for each version; whether there was any."""
    from fend.bundles import read_manifest
    from fend.bundles.versions import version_folders

    folders = version_folders(model)
    for folder in folders:
        try:
            manifest = read_manifest(folder)
            content = manifest.content
            said = (
                f"{manifest.version}  {content.denoiser.architecture} + "
                f"{content.classifier.architecture}"
            )
        except FendError as error:
            said = f"{error.code}: {error}"
        typer.echo(f"{model.name}  {said}  {folder}")
    return bool(folders)
