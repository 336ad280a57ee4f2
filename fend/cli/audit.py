"""`fend audit`: attack a bundle from the command line, with the numbers that the service gives."""

import json
import os
import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from fend.audit.presets import PRESETS
from fend.audit.render.html import to_html
from fend.audit.render.markdown import to_markdown
from fend.audit.render.terminal import in_words, progress, say, say_making, show
from fend.audit.report import AuditDocument, Timing
from fend.audit.report.build import build_report
from fend.audit.rows import Row
from fend.audit.spec import defaults_of, from_request, spec_invalid
from fend.cli.diff import diff
from fend.cli.folders import DATA_DIR, MODELS_DIR, DataDir, ModelsDir
from fend.cli.remote_audit import run_at
from fend.cli.self_test import self_test
from fend.errors import Unavailable
from fend.files import check_file, check_folder, write_output
from fend.threat import Knowledge

if TYPE_CHECKING:
    from fend.audit.work.opened import AuditJob, OpenAudit
    from fend.cli.work_folder import WorkFolder


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"


SUFFIXES = {
    ".html": Format.HTML, ".htm": Format.HTML,
    ".md": Format.MARKDOWN, ".markdown": Format.MARKDOWN,
    ".json": Format.JSON,
}  # fmt: skip
"""What is written, by the name of the file."""


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class _RunFirst(TyperGroup):
    """`fend audit MODEL` is `fend audit run MODEL`; a model of a command's name needs the `run`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RunFirst,
    no_args_is_help=True,
    help="Attack a model and report how often its answers survive.",
    epilog="`fend audit MODEL` is `fend audit run MODEL`; `fend audit run --help` has its options.",
)


@app.command("run")
def audit(
    model: Annotated[str, typer.Argument(help="A bundle's folder, or its name in --models-dir.")],
    preset: Annotated[str, typer.Option(help=f"One of: {', '.join(PRESETS)}.")] = "quick",
    dataset: Annotated[
        str | None,
        typer.Option(help="Data set, such as folder:PATH; default: what the model was tested on."),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Number of images; 0 is all.")] = None,
    epsilon: Annotated[
        str | None,
        typer.Option(
            help="Epsilon on the pixel scale 0..1: 0.03, or 8/255; default: the model's own."
        ),
    ] = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Pass over files that are no pictures.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Seed of the sample and the attacks.")] = None,
    knowledge: Annotated[
        list[Knowledge] | None,
        typer.Option(help="Level; repeat for more than one. Default: the preset's."),
    ] = None,
    surrogate: Annotated[
        str | None,
        typer.Option(help="The model that black_box and grey_box_aware attack; default: trained."),
    ] = None,
    spec_file: Annotated[
        Path | None,
        typer.Option("--spec", help="JSON of a request's fields, such as attacks; flags win."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Running service that does the work, such as http://127.0.0.1:8000."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="File with the service's admin token; default: FEND_ADMIN_TOKEN."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes; 0: one for each core. The numbers stay the same.")
    ] = 0,
    device: Annotated[Device, typer.Option(help="Device; auto prefers cuda.")] = Device.AUTO,
    output: Annotated[
        Path | None,
        typer.Option(help="File for the report; its suffix, .html, .md or .json, says the format."),
    ] = None,
    rows_file: Annotated[
        Path | None, typer.Option("--rows", help="File for the raw rows, as JSON Lines.")
    ] = None,
    format: Annotated[Format, typer.Option(help="What to print.")] = Format.TABLE,
    models_dir: ModelsDir = MODELS_DIR,
    data_dir: DataDir = DATA_DIR,
    surrogates_dir: Annotated[
        Path, typer.Option(envvar="FEND_SURROGATES_DIR", help="Folder of trained surrogates.")
    ] = Path(".fend/surrogates"),
    work_dir: Annotated[
        Path,
        typer.Option(help="Folder of stopped audits' finished parts; the same command goes on."),
    ] = Path(".fend/audits"),
) -> None:
    """Attack a model and report how often its answers survive."""
    _check_outputs(output, rows_file)
    overrides: dict[str, Any] = {
        "dataset": dataset,
        "seed": seed,
        "threat": None if epsilon is None else {"epsilon": epsilon},
        "knowledge": knowledge or None,
        "surrogate": surrogate,
    }
    body = {key: value for key, value in overrides.items() if value is not None}
    if samples is not None:
        body["samples"] = samples or None
    asked = {} if spec_file is None else _read_spec(spec_file)
    body = {"preset": preset, **asked, **body}
    if url is not None:
        wanted = body | {"model": model}
        document, rows, where = run_at(url, token_file, wanted, rows_file is not None)
        _hand_out(document, rows, format, output, rows_file, f"it stays at {where}")
        return
    # They import torch, which --url and --help do without.
    from fend.audit.work.opened import AuditJob
    from fend.bundles.versions import find_bundle
    from fend.cli.work_folder import WorkFolder

    folder, manifest = find_bundle(model, models_dir)
    spec = from_request(
        body | {"model": manifest.name}, len(manifest.content.labels), defaults_of(manifest.about)
    )
    check_folder("--surrogates-dir", surrogates_dir)
    job = AuditJob(spec, folder, data_dir, _resolve(device), models_dir, surrogates_dir, skip_bad)
    with ExitStack() as bar:
        keep = WorkFolder(work_dir, spec, lambda: bar.enter_context(progress(_title(job))))
        document = _run(job, workers or _default_workers(job.device), keep)
    again = "the same command with another --output or --rows attacks nothing again"
    _hand_out(document, keep.rows(), format, output, rows_file, again)
    keep.forget()


app.command("diff")(diff)
app.command("self-test")(self_test)


def _check_outputs(output: Path | None, rows_file: Path | None) -> None:
    if output is not None and output.suffix.lower() not in SUFFIXES:
        raise spec_invalid(
            f"--output: the name says what is written, and {output.name} ends in none of: "
            f"{', '.join(SUFFIXES)}"
        )
    for flag, file in (("--output", output), ("--rows", rows_file)):
        if file is not None:
            check_file(flag, file)
    if output is not None and rows_file is not None and output.resolve() == rows_file.resolve():
        raise spec_invalid("--rows: is the file of --output; name another one")


def _hand_out(
    document: AuditDocument,
    rows: Sequence[Row],
    format: Format,
    output: Path | None,
    rows_file: Path | None,
    otherwise: str,
) -> None:
    """Print the report first, and then write it: a full disk takes nothing away.

    Raises:
        Unavailable (`output_unwritable`): says `otherwise`, how the report is still to be had.
    """
    try:
        if format is Format.TABLE:
            show(document.result)
        else:
            typer.echo(_render(document, format), nl=False)
    finally:  # nor does a terminal that is gone
        file = output
        try:
            if output is not None:
                write_output(output, _render(document, SUFFIXES[output.suffix.lower()]))
            if rows_file is not None:
                file = rows_file
                write_output(rows_file, "".join(row.model_dump_json() + "\n" for row in rows))
        except OSError as error:
            raise Unavailable(
                f"{file} could not be written ({error.strerror}); the report is printed above, and "
                f"{otherwise}",
                code="output_unwritable",
            ) from error


def _render(document: AuditDocument, format: Format) -> str:
    if format is Format.HTML:
        return to_html(document.result, document.timing)
    if format is Format.MARKDOWN:
        return to_markdown(document.result)
    return document.model_dump_json(indent=2) + "\n"


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        asked = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise spec_invalid(f"--spec: {path} cannot be read as JSON: {error}") from error
    if not isinstance(asked, dict):
        raise spec_invalid(f"--spec: {path} does not hold a JSON object")
    return asked


def _resolve(device: Device) -> str:
    import torch

    if device is Device.CUDA and not torch.cuda.is_available():
        raise spec_invalid("--device: there is no CUDA device here; use cpu or auto")
    if device is Device.AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.value


def _default_workers(device: str) -> int:
    """One process a core; a GPU is shared badly between processes."""
    return (os.cpu_count() or 1) if device == "cpu" else 1


def _title(job: "AuditJob") -> str:
    preset = "" if job.spec.preset is None else f" (preset {job.spec.preset})"
    return f"Auditing {job.spec.model} on {job.spec.dataset}{preset}"


def _run(job: "AuditJob", workers: int, keep: "WorkFolder") -> AuditDocument:
    from fend.audit.estimate import estimate_s
    from fend.audit.executors import executor_for
    from fend.audit.run import run_audit
    from fend.cli.work_folder import terminable

    def tell_estimate(opened: "OpenAudit") -> None:
        say(f"about {in_words(estimate_s(opened, workers, time.monotonic))}, by a short trial")

    started_s = time.monotonic()
    try:
        with terminable():
            source = run_audit(
                job, executor_for(workers), keep, on_making=say_making, tell=say,
                on_opened=tell_estimate,
            )  # fmt: skip
    except (KeyboardInterrupt, SystemExit) as stop:
        keep.tell_how_to_go_on()
        code = stop.code if isinstance(stop, SystemExit) else 128 + signal.SIGINT
        raise typer.Exit(int(code or 0)) from stop
    finished_at = datetime.now(UTC)
    wall_time_s = time.monotonic() - started_s  # the clock may be set meanwhile
    timing = Timing(
        started_at=finished_at - timedelta(seconds=wall_time_s),
        finished_at=finished_at,
        wall_time_s=wall_time_s,
    )
    return AuditDocument(result=build_report(job.spec, source, keep.rows()), timing=timing)
