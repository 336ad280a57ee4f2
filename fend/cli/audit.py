"""`fend audit`: attack a bundle from the command line, with the numbers that the service gives."""

import json
import os
import time
from collections.abc import Callable, Sequence
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
from fend.audit.render.terminal import progress, say_making, show
from fend.audit.report import AuditDocument, Timing
from fend.audit.report.build import build_report
from fend.audit.rows import Row
from fend.audit.spec import AuditSpecInvalid, from_request
from fend.cli.diff import diff
from fend.cli.folders import DATA_DIR, MODELS_DIR, DataDir, ModelsDir
from fend.cli.remote_audit import run_at
from fend.cli.self_test import self_test
from fend.threat import Knowledge

if TYPE_CHECKING:
    from fend.audit.work.opened import AuditJob


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"
    HTML = "html"


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
        str | None, typer.Option(help="Such as mnist:test (default) or handwritten-digits.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="How many images; 0 is all.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="L-inf, on the pixel scale 0..1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sample and the attacks.")] = None,
    knowledge: Annotated[
        list[Knowledge] | None,
        typer.Option(help="Repeat for more than one; default: the preset's."),
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
        typer.Option(help="Of a running service, such as http://127.0.0.1:8000: it does the work."),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(help="With the service's admin token; default: FEND_ADMIN_TOKEN."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes; 0: one a core. Changes no number.")
    ] = 0,
    device: Annotated[Device, typer.Option(help="auto: cuda where there is one.")] = Device.AUTO,
    output: Annotated[
        Path | None,
        typer.Option(help="Also write the report here: .html, .md, or else JSON."),
    ] = None,
    rows_file: Annotated[
        Path | None, typer.Option("--rows", help="Also write the raw rows here, as JSON Lines.")
    ] = None,
    format: Annotated[Format, typer.Option(help="What to print.")] = Format.TABLE,
    models_dir: ModelsDir = MODELS_DIR,
    data_dir: DataDir = DATA_DIR,
    surrogates_dir: Annotated[
        Path, typer.Option(envvar="FEND_SURROGATES_DIR", help="Where trained ones are kept.")
    ] = Path(".fend/surrogates"),
) -> None:
    """Attack a model and report how often its answers survive."""
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
    for flag, file in (("--output", output), ("--rows", rows_file)):
        if file is not None and not file.resolve().parent.is_dir():
            raise AuditSpecInvalid(f"{flag}: there is no folder {file.resolve().parent}")
    asked = {} if spec_file is None else _read_spec(spec_file)
    body = {"preset": preset, **asked, **body}
    if url is not None:
        document, rows = run_at(url, token_file, body | {"model": model}, rows_file is not None)
    else:
        # They import torch, which --url and --help do without.
        from fend.audit.work.opened import AuditJob
        from fend.bundles.versions import find_bundle

        folder, manifest = find_bundle(model, models_dir)
        spec = from_request(body | {"model": manifest.name})
        job = AuditJob(spec, folder, data_dir, _resolve(device), models_dir, surrogates_dir)
        document, rows = _run(job, workers or _default_workers(job.device))
    if rows_file is not None:
        rows_file.write_text("".join(row.model_dump_json() + "\n" for row in rows))
    if output is not None:
        suffixes = {".html": Format.HTML, ".md": Format.MARKDOWN}
        output.write_text(_render(document, suffixes.get(output.suffix, Format.JSON)))
    if format is Format.TABLE:
        show(document.result)
    else:
        typer.echo(_render(document, format), nl=False)


app.command("diff")(diff)
app.command("self-test")(self_test)


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
        raise AuditSpecInvalid(f"--spec: {path} cannot be read as JSON: {error}") from error
    if not isinstance(asked, dict):
        raise AuditSpecInvalid(f"--spec: {path} does not hold a JSON object")
    return asked


def _resolve(device: Device) -> str:
    import torch

    if device is Device.CUDA and not torch.cuda.is_available():
        raise AuditSpecInvalid("--device: there is no CUDA device here; use cpu or auto")
    if device is Device.AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.value


def _default_workers(device: str) -> int:
    """One process a core; a GPU is shared badly between processes."""
    return (os.cpu_count() or 1) if device == "cpu" else 1


def _run(job: "AuditJob", workers: int) -> tuple[AuditDocument, Sequence[Row]]:
    from fend.audit.executors import executor_for
    from fend.audit.run import KeepInMemory, run_audit

    started_s = time.monotonic()
    with ExitStack() as bar:

        def on_begin() -> Callable[[int, int], None]:
            # Not before: to make a surrogate has a bar of its own.
            title = f"Auditing {job.spec.model} on {job.spec.dataset}"
            return bar.enter_context(progress(title))

        keep = KeepInMemory(on_begin)
        source = run_audit(job, executor_for(workers), keep, on_making=say_making)
    rows = keep.rows()
    finished_at = datetime.now(UTC)
    wall_time_s = time.monotonic() - started_s  # the clock may be set meanwhile
    timing = Timing(
        started_at=finished_at - timedelta(seconds=wall_time_s),
        finished_at=finished_at,
        wall_time_s=wall_time_s,
    )
    return AuditDocument(result=build_report(job.spec, source, rows), timing=timing), rows
