"""The difference between two reports, as Markdown and on the terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fend.audit.render.markdown import markdown_templates
from fend.audit.render.terminal import add_row
from fend.audit.report import percent
from fend.audit.report.diff import Change, Diff
from fend.errors import printable

OUTCOMES = {"better": "▲ better", "worse": "▼ worse", "unclear": "= no clear change"}
STATES = {True: "pass", False: "FAIL", None: "not tried"}
RELIABLE = {True: "reliable", False: "unreliable", None: "not probed"}


def to_markdown(diff: Diff) -> str:
    """The comparison for a pull request."""
    rows = [_cells(change) for change in diff.changes]
    template = markdown_templates().get_template("diff.md.j2")
    return template.render(diff=diff, notes=_notes(diff), rows=rows)


def show(diff: Diff) -> None:
    """Print a row for each number of both reports, and what to keep in mind."""
    console = Console()
    head = ("", "Before", "After", "Difference", "95 %", "p", "")
    table = Table(*head, title=Text(printable(f"{diff.before} → {diff.after}")))
    for change in diff.changes:
        add_row(table, _cells(change), bold=change.summary)
    console.print(table)
    for text in _notes(diff):
        console.print(printable(text), highlight=False, markup=False)


def _notes(diff: Diff) -> list[str]:
    first = diff.changes[0]
    notes = [f"Of {first.before.n:,} images before, and {first.after.n:,} after."]
    notes += [f"Not like for like: {text}." for text in diff.differences]
    if diff.reliable_before is False or diff.reliable_after is False:
        notes.append(
            f"Before {RELIABLE[diff.reliable_before]}, after {RELIABLE[diff.reliable_after]}: "
            "the accuracy of an unreliable report is no evidence of robustness."
        )
    for what, lines in (("before", diff.only_before), ("after", diff.only_after)):
        if lines:
            notes.append(f"Only {what}: {', '.join(lines)}.")
    for check in diff.checks:
        states = f"{STATES[check.before]} → {STATES[check.after]}"
        notes.append(f"Check “{check.name}”: {states}. {check.text}")
    notes.append(
        "The same images: p is McNemar's exact test, and + and - are the images that became right "
        "and wrong." if diff.paired else
        "Not the same images: a change is told by whether the interval of the difference holds 0."
    )  # fmt: skip
    worse = [change.what for change in diff.changes if change.summary and change.outcome == "worse"]
    notes.append(
        f"Regressed: {', '.join(worse) or 'sanity checks fail now'}." if diff.regressed
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
