"""`fend audit diff`: what got better or worse between two reports."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from fend.audit.render.diff import show, to_markdown
from fend.audit.report import AuditDocument, Report
from fend.audit.report.diff import compare
from fend.errors import Invalid

EXIT_REGRESSED = 1


class DiffFormat(StrEnum):
    TABLE = "table"
    MARKDOWN = "markdown"
    JSON = "json"


def diff(
    before: Annotated[Path, typer.Argument(help="Report as JSON, from `fend audit --output`.")],
    after: Annotated[Path, typer.Argument(help="Report to compare with it.")],
    format: Annotated[DiffFormat, typer.Option(help="Form of the output.")] = DiffFormat.TABLE,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare even if threat models or data sets differ.")
    ] = False,
    fail_on_regression: Annotated[
        bool,
        typer.Option(
            "--fail-on-regression",
            help="End with 1 if clean accuracy or a worst case is worse, or checks now fail.",
        ),
    ] = False,
) -> None:
    """Compare two reports: what changed, and whether it is more than chance."""
    found = compare(read_report(before), read_report(after), anyway=anyway)
    if format is DiffFormat.JSON:
        typer.echo(found.model_dump_json(indent=2))
    elif format is DiffFormat.MARKDOWN:
        typer.echo(to_markdown(found), nl=False)
    else:
        show(found)
    if fail_on_regression and found.regressed:
        raise typer.Exit(EXIT_REGRESSED)


def read_report(path: Path) -> Report:
    """The report in a file: by itself, or with its timing as `fend audit` writes it.

    Raises:
        Invalid (`report_unreadable`): there is none.
    """
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(held, dict):
        raise _unreadable(f"{path} holds no report")
    report = held.get("result", held)
    form = report.get("format") if isinstance(report, dict) else None
    if form != Report.model_fields["format"].default:
        raise _unreadable(
            f"{path} is of the format {form!r}, not {Report.model_fields['format'].default!r}; "
            "run the audit again with this version"
        )
    try:
        if report is held:
            return Report.model_validate(report)
        return AuditDocument.model_validate(held).result
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _unreadable(f"{path} holds no whole report: {where}: {first['msg']}") from error


def _unreadable(message: str) -> Invalid:
    return Invalid(message, code="report_unreadable")
