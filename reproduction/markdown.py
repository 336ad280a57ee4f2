"""A table as Markdown; what it says and in which order is in `templates/`."""

from fend.audit.render.markdown import markdown_templates
from reproduction.estimates import Estimate
from reproduction.profiles import budget_of
from reproduction.tables import DataTable


def to_markdown(table: DataTable) -> str:
    """The whole table, with its footnotes and flags."""
    # All of it is text of ours, and some of it Markdown.
    templates = markdown_templates("reproduction").overlay(autoescape=False, finalize=str)
    profiles = sorted({row.made.profile for row in table.rows if row.made})
    return templates.get_template("reproduction.md.j2").render(
        table=table,
        noted=[row.defence for row in table.rows if row.note],
        profiles=[(name, budget_of(name).summary) for name in profiles],
        in_words=in_words,
        cell=_cell,
        short=_short,
        difference=_difference,
    )


def in_words(epsilon: float) -> str:
    """0.2, or 8/255."""
    in_255 = epsilon * 255
    return f"{epsilon:g}" if epsilon == 0.2 else f"{in_255:.0f}/255"


def _cell(value: Estimate) -> str:
    spread = "" if value.spread is None else f" ± {100 * value.spread:.1f}"
    return f"{_short(value)}{spread} ({100 * value.low:.1f} to {100 * value.high:.1f})"


def _short(value: Estimate) -> str:
    return f"{100 * value.mean:.1f}"


def _difference(value: Estimate) -> str:
    text = f"{100 * value.mean:+.1f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})"
    return f"**{text}**" if value.low > 0 or value.high < 0 else text
