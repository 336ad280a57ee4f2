"""The `fend` command: joins the subcommands, and turns Fend's errors into one line.

Only the module of the subcommand that is called is imported, so that the light ones start without
importing torch.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, requires
from typing import Any

import typer

import fend
from fend.errors import FendError, NotFound, extra_missing, printable

EXIT_ERROR = 2
EXIT_MISSING = 1
"""What the command needs is not installed."""

EXTRAS = {"train": "train", "protect": "train", "reproduce": "train,bench"}
"""What commands need at most, apart from what every other needs at most: `serve`."""


@dataclass(frozen=True)
class Command:
    """A subcommand: a Typer app or a function, and how to get it when it is needed."""

    name: str
    help: str
    load: Callable[[], Any]


def main() -> None:
    """The console entry point."""
    arguments = sys.argv[1:] or ["--help"]
    chosen = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        try:
            build_app(chosen)(arguments, prog_name="fend")
        except ModuleNotFoundError as error:
            raise _needs(chosen, error) from None
    except FendError as error:
        typer.echo(f"error [{error.code}]: {printable(str(error))}", err=True)
        sys.exit(EXIT_MISSING if error.code == "dependency_missing" else EXIT_ERROR)


def build_app(chosen: str | None) -> typer.Typer:
    """The command line with subcommand `chosen`; of the others only their names and help."""
    app = typer.Typer(
        help="Robust image classification: denoise, classify, attack yourself.",
        context_settings={"help_option_names": ["-h", "--help"]},
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    # A callback, so that the app keeps subcommands even where there is only one.
    app.callback()(_version)
    for command in [*_own_commands(), *_registered_commands()]:
        target = command.load() if command.name == chosen else _not_loaded
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=command.name, help=command.help)
        else:
            app.command(command.name, help=None if target is not _not_loaded else command.help)(
                target
            )
    return app


def _needs(command: str | None, error: ModuleNotFoundError) -> Exception:
    """What to say where an extra is not installed; `error` itself where no extra has the module."""
    module = (error.name or "").partition(".")[0]
    for line in requires("fend") or ():
        asked = re.match(r"([\w-]+).*extra == \W(\w+)", line)
        if asked and asked[1].replace("-", "_").lower() == module:
            further = asked[2] in ("postgres", "otel")
            extra = asked[2] if further else EXTRAS.get(command or "", "serve")
            return extra_missing(f"`fend {command}` needs {module}", extra)
    return error


def _own_commands() -> list[Command]:
    return [
        Command(name, help, partial(_own, name, target))
        for name, help, target in (
            ("audit", "Attack a model and report how often its answers survive.", "app"),
            ("bundle", "Inspect, verify and add models on disk.", "app"),
            ("classify", "Clean and classify pictures.", "classify"),
            ("data", "List and fetch data sets.", "app"),
        )
    ]


def _own(module: str, target: str) -> Any:
    return getattr(import_module(f"fend.cli.{module}"), target)


def _registered_commands() -> list[Command]:
    """What is built on the library registers itself, so that the library need not import it."""
    helps = {
        "key": "Make a key for the service.",
        "protect": "Put a denoiser in front of a classifier of yours.",
        "reproduce": "Run the paper's evaluation and write its tables.",
        "serve": "Run the service.",
        "train": "Train a denoiser and write a bundle.",
    }
    return [
        Command(entry.name, helps.get(entry.name, f"From {entry.value}."), partial(_load, entry))
        for entry in sorted(entry_points(group="fend.commands"), key=lambda entry: entry.name)
    ]


def _load(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        if error.name != entry.module.partition(".")[0]:
            raise
        raise NotFound(
            f"`fend {entry.name}` runs in a checkout of the repository only; it is not installed",
            code="command_missing",
        ) from error


def _not_loaded() -> None:
    raise AssertionError("only the chosen subcommand is called")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(fend.__version__)
        raise typer.Exit


def _version(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
    ),
) -> None:
    del version
