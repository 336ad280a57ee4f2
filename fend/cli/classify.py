"""`fend classify FILES`: what a service, or a bundle here, says of pictures."""

import glob
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fend.cli.folders import MODELS_DIR, ModelsDir
from fend.client import Client
from fend.client.answers import Certified, Classification
from fend.errors import FendError, Invalid

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})
"""Of the files that are looked for in a folder."""

REQUESTS_AT_A_TIME = 8


Classify = Callable[[Path], Classification]


def classify(
    files: Annotated[
        list[str], typer.Argument(help="Pictures, folders of them, or patterns such as '*.png'.")
    ],
    url: Annotated[
        str | None,
        typer.Option(help="Running service that answers, such as http://127.0.0.1:8000."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model; default: the service's. Without --url: mnist, or a bundle's folder."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
    top_k: Annotated[int | None, typer.Option(min=1, help="Labels listed with --json.")] = None,
    certify: Annotated[
        bool, typer.Option("--certify", help="Also say up to which L2 distance the answer holds.")
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(help="File with the key for --url; default: FEND_API_KEY, if that is set."),
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="FEND_API_KEY", hidden=True)] = None,
    models_dir: ModelsDir = MODELS_DIR,
) -> None:
    """Clean and classify pictures, at a service or right here. Exit code 1: not all of them."""
    bad = 0
    key = api_key if key_file is None else _read_key(key_file)
    if url is None:
        answering = _here(models_dir, model, top_k, certify)
    else:
        answering = _at(url, key, model, top_k, certify)
    certified = ("Certified",) if certify else ()
    table = Table("File", "Label", "Confidence", "Undefended", "Suspicious", *certified)
    with answering as (classify_one, workers), ThreadPoolExecutor(workers) as pool:
        try:
            for path, answer in pool.map(_safely(classify_one), _find(files)):
                bad += isinstance(answer, FendError)
                if as_json:
                    typer.echo(_line(path, answer))
                else:
                    table.add_row(*_row(path, answer))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if not as_json:
        Console().print(table)
    if bad:
        raise typer.Exit(1)


@contextmanager
def _at(
    url: str, key: str | None, model: str | None, top_k: int | None, certify: bool
) -> Iterator[tuple[Classify, int]]:
    with Client(url, key=key) as client:

        def ask(path: Path) -> Classification:
            return client.classify(path, model=model, top_k=top_k, certify=certify)

        yield ask, 1 if certify else REQUESTS_AT_A_TIME


@contextmanager
def _here(
    models_dir: Path, model: str | None, top_k: int | None, certify: bool
) -> Iterator[tuple[Classify, int]]:
    # Imports torch, which takes seconds that --url need not wait for.
    from fend.bundles.versions import find_bundle
    from fend.client.local import LocalModel

    folder, _ = find_bundle(model or "mnist", models_dir)
    local = LocalModel(folder)
    # One at a time: torch spreads each picture over the cores as it is.
    yield lambda path: local.classify(path, top_k=top_k, certify=certify), 1


def _safely(classify_one: Classify) -> Callable[[Path], tuple[Path, Classification | FendError]]:
    def answer(path: Path) -> tuple[Path, Classification | FendError]:
        try:
            return path, classify_one(path)
        except FendError as error:
            return path, error

    return answer


def _find(arguments: list[str]) -> Iterator[Path]:
    """The files that are meant, in order; one that is not there is given too, to be told."""
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
        elif path.exists():
            yield path
        else:
            yield from map(Path, sorted(glob.glob(argument, recursive=True)) or [argument])


def _line(path: Path, answer: Classification | FendError) -> str:
    if isinstance(answer, FendError):
        said: dict[str, object] = {"problem": {"code": answer.code, "detail": str(answer)}}
    else:
        said = answer.model_dump(mode="json", exclude_none=True)
    return json.dumps({"file": str(path), **said})


def _row(path: Path, answer: Classification | FendError) -> tuple[str, ...]:
    if isinstance(answer, FendError):
        return (escape(str(path)), escape(f"{answer.code}: {answer}"), "", "", "")
    return (
        escape(str(path)),
        escape(answer.label),
        f"{answer.confidence:.1%}",
        "" if answer.undefended is None else escape(answer.undefended.label),
        _suspicious(answer),
        *([] if answer.certified is None else [_certified(answer.certified)]),
    )


def _suspicious(answer: Classification) -> str:
    found = answer.suspicion
    if found is None:
        return ""
    return f"yes ({found.score:.3f})" if found.flagged else "no"


def _certified(certified: Certified) -> str:
    if certified.label is None:
        return "abstains"
    return f"{escape(certified.label)} within L2 {certified.radius_l2:.3f}"


def _read_key(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(
            f"--key-file: {file} cannot be read: {error}", code="key_unreadable"
        ) from error
