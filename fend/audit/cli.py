"""`fend audit`: attack a bundle from the command line, with the numbers that the service gives."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fend.audit.build import build_report
from fend.audit.markdown import to_markdown
from fend.audit.pool import Job, run_shards
from fend.audit.report import AuditDocument, Report, Share, Timing, percent
from fend.audit.run import Shard, open_audit, plan
from fend.audit.source import source_of
from fend.audit.spec import AuditSpec, AuditSpecInvalid, from_request
from fend.bundle import BundleMissing, Manifest, read_manifest
from fend.threat import Knowledge


class Format(StrEnum):
    TABLE = "table"
    JSON = "json"
    MARKDOWN = "markdown"


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


def audit(
    model: Annotated[str, typer.Argument(help="A bundle's folder, or its name in --models-dir.")],
    preset: Annotated[str, typer.Option(help="quick or paper.")] = "quick",
    dataset: Annotated[
        str | None, typer.Option(help="Such as mnist:test (default) or rendered-digits.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="How many images; 0 is all.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="L-inf, on the pixel scale 0..1.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the sample and the attacks.")] = None,
    knowledge: Annotated[
        list[Knowledge] | None, typer.Option(help="Repeat for more than one; default: all.")
    ] = None,
    spec_file: Annotated[
        Path | None,
        typer.Option("--spec", help="JSON of a request's fields, such as attacks; flags win."),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Processes; 0: one a core. Changes no number.")
    ] = 0,
    device: Annotated[Device, typer.Option(help="auto: cuda where there is one.")] = Device.AUTO,
    output: Annotated[Path | None, typer.Option(help="Also write the JSON report here.")] = None,
    format: Annotated[Format, typer.Option(help="What to print.")] = Format.TABLE,
    models_dir: Annotated[Path, typer.Option(envvar="FEND_MODELS_DIR")] = Path("models"),
    data_dir: Annotated[Path, typer.Option(envvar="FEND_DATA_DIR")] = Path(".fend/data"),
) -> None:
    """Attack a model and report how often its answers survive."""
    folder, manifest = _find_bundle(model, models_dir)
    overrides: dict[str, Any] = {
        "dataset": dataset,
        "seed": seed,
        "threat": None if epsilon is None else {"epsilon": epsilon},
        "knowledge": knowledge or None,
    }
    body = {key: value for key, value in overrides.items() if value is not None}
    if samples is not None:
        body["samples"] = samples or None
    if output is not None and not output.resolve().parent.is_dir():
        raise AuditSpecInvalid(f"--output: there is no folder {output.resolve().parent}")
    asked = {} if spec_file is None else _read_spec(spec_file)
    spec = from_request({"preset": preset, **asked, "model": manifest.name, **body})
    job = Job(spec, folder, data_dir, _resolve(device))
    document = _run(job, workers or _default_workers(job.device))
    if output is not None:
        output.write_text(document.model_dump_json(indent=2) + "\n")
    if format is Format.JSON:
        typer.echo(document.model_dump_json(indent=2))
    elif format is Format.MARKDOWN:
        typer.echo(to_markdown(document.result), nl=False)
    else:
        _print(document.result)


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        asked = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise AuditSpecInvalid(f"--spec: {path} cannot be read as JSON: {error}") from error
    if not isinstance(asked, dict):
        raise AuditSpecInvalid(f"--spec: {path} does not hold a JSON object")
    return asked


def _resolve(device: Device) -> str:
    if device is Device.CUDA and not torch.cuda.is_available():
        raise AuditSpecInvalid("--device: there is no CUDA device here; use cpu or auto")
    if device is Device.AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device.value


def _default_workers(device: str) -> int:
    """One process a core; a GPU is shared badly between processes."""
    return (os.cpu_count() or 1) if device == "cpu" else 1


def _find_bundle(model: str, models_dir: Path) -> tuple[Path, Manifest]:
    for folder in (Path(model), models_dir / model):
        if (folder / "manifest.json").is_file():
            return folder, read_manifest(folder)
    there = sorted(path.parent.name for path in models_dir.glob("*/manifest.json"))
    raise BundleMissing(
        f"{model!r} is neither the folder of a bundle nor one of those in {models_dir}: "
        f"{', '.join(there) or '(none)'}"
    )


def _run(job: Job, workers: int) -> AuditDocument:
    started_at = datetime.now(UTC)
    bundle, image_set = open_audit(job.spec, job.bundle_dir, job.data_dir, job.device)
    shards = plan(job.spec, image_set)
    with _progress(job.spec, sum(len(shard.indices) for shard in shards)) as on_shard:
        rows = run_shards(job, shards, workers, on_shard)
    finished_at = datetime.now(UTC)
    return AuditDocument(
        result=build_report(job.spec, source_of(bundle, image_set), rows),
        timing=Timing(
            started_at=started_at,
            finished_at=finished_at,
            wall_time_s=(finished_at - started_at).total_seconds(),
        ),
    )


@contextmanager
def _progress(spec: AuditSpec, images: int) -> Iterator[Callable[[Shard], None]]:
    """A bar on standard error, counted in images, so that standard output stays clean."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(f"Auditing {spec.model} on {spec.dataset}", total=images)
        yield lambda shard: bar.advance(task, len(shard.indices))


def _print(report: Report) -> None:
    table = Table(
        "Attacker", "Attack", "Gradient through", "Accuracy", "95 %", "No denoiser",
        caption="Worst case: images that are answered right clean and under every attack above.",
    )  # fmt: skip
    table.add_row(
        "none", "clean images", "-", *_cells(report.clean.defended),
        percent(report.clean.undefended.accuracy),
    )  # fmt: skip
    for line in report.lines:
        table.add_row(
            line.knowledge, line.title, line.gradient_through, *_cells(line.defended),
            percent(line.undefended.accuracy),
        )  # fmt: skip
    table.add_section()
    for knowledge, share in report.worst_case_by_knowledge.items():
        table.add_row(knowledge, "worst case", "", *_cells(share), style="bold")
    table.add_row("all", "worst case", "", *_cells(report.worst_case), style="bold")
    console = Console()
    console.print(table)
    console.print(report.verdict, highlight=False)


def _cells(share: Share) -> tuple[str, str]:
    return percent(share.accuracy), f"{100 * share.low:.1f}-{100 * share.high:.1f} %"
