"""`fend audit diff`: what got better or worse between two reports."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from fend.audit.report import AuditDocument, Report, percent
from fend.audit.report.diff import Change, Diff, compare
from fend.errors import Invalid

EXIT_REGRESSED = 1
OUTCOMES = {"better": "▲ better", "worse": "▼ worse", "unclear": "= no clear change"}
STATES = {True: "pass", False: "FAIL", None: "not tried"}
RELIABLE = {True: "reliable", False: "unreliable", None: "not probed"}


class DiffFormat(StrEnum):
    TABLE = "table"
    MARKDOWN = "markdown"
    JSON = "json"


def diff(
    before: Annotated[Path, typer.Argument(help="A report as JSON, of `fend audit --output`.")],
    after: Annotated[Path, typer.Argument(help="The report to set against it.")],
    format: Annotated[DiffFormat, typer.Option(help="What to print.")] = DiffFormat.TABLE,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Even if threat models or data sets differ.")
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
        _print(found)
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


def to_markdown(found: Diff) -> str:
    """The comparison for a pull request."""
    head = ("", "Before", "After", "Difference", "95 % interval", "p", "")
    lines = [head, ("---",) * len(head), *(_cells(change) for change in found.changes)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    told = "\n".join(f"- {text}" for text in _notes(found))
    return f"# {found.before} → {found.after}\n\n{told}\n\n{table}\n"


def _print(found: Diff) -> None:
    console = Console()
    title = f"{found.before} → {found.after}"
    table = Table("", "Before", "After", "Difference", "95 %", "p", "", title=title)
    for change in found.changes:
        table.add_row(*_cells(change), style="bold" if change.summary else None)
    console.print(table)
    for text in _notes(found):
        console.print(text, highlight=False, markup=False)


def _notes(found: Diff) -> list[str]:
    first = found.changes[0]
    notes = [f"Of {first.before.n:,} images before, and {first.after.n:,} after."]
    notes += [f"Not like for like: {text}." for text in found.differences]
    if found.reliable_before is False or found.reliable_after is False:
        notes.append(
            f"Before {RELIABLE[found.reliable_before]}, after {RELIABLE[found.reliable_after]}: "
            "the accuracy of an unreliable report is no evidence of robustness."
        )
    for what, lines in (("before", found.only_before), ("after", found.only_after)):
        if lines:
            notes.append(f"Only {what}: {', '.join(lines)}.")
    for check in found.checks:
        states = f"{STATES[check.before]} → {STATES[check.after]}"
        notes.append(f"Check “{check.name}”: {states}. {check.text}")
    notes.append(
        "The same images: p is McNemar's exact test, and + and - are the images that became right "
        "and wrong." if found.paired else
        "Not the same images: a change is told by whether the interval of the difference holds 0."
    )  # fmt: skip
    worse = [
        change.what for change in found.changes if change.summary and change.outcome == "worse"
    ]
    notes.append(
        f"Regressed: {', '.join(worse) or 'sanity checks fail now'}." if found.regressed
        else "No regression of clean accuracy, a worst case or the sanity checks."
    )  # fmt: skip
    return notes


def _cells(change: Change) -> tuple[str, ...]:
    difference = f"{100 * (change.after.accuracy - change.before.accuracy):+.1f}"
    if change.gained is not None:
        difference += f" (+{change.gained} -{change.lost})"
    return (
        change.what,
        percent(change.before.accuracy),
        percent(change.after.accuracy),
        difference,
        f"{100 * change.low:+.1f} to {100 * change.high:+.1f}",
        "-" if change.p_value is None else f"{change.p_value:.2g}",
        OUTCOMES[change.outcome],
    )
