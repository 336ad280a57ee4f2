"""Markdown, for a model card or a pull request. Names and labels cannot become markup in it."""

import re
from collections.abc import Sequence
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fend.audit.render.view import view_of
from fend.audit.report import Report
from fend.errors import printable

ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""What could start HTML."""

MARKS = re.compile(r"[\\|\[\]`*~$]|(?<![^\W_])_|_(?![^\W_])")
"""What could start a link, code, emphasis, a formula or the next cell of a table. An underscore
inside a word is none of these."""

ADDRESS = re.compile(r":(?=//)|(?<=\bwww)\.", re.IGNORECASE)
"""What makes text an address, which would become a link by itself."""


def to_markdown(report: Report) -> str:
    """The report's numbers, sanity checks and identity; the raw rows and the JSON hold more."""
    return markdown_templates().get_template("report.md.j2").render(view=view_of(report))


@cache
def markdown_templates(package: str = "fend.audit.render") -> Environment:
    """The templates of a package and, for its tables, those of this one.

    Values that a template writes are escaped for Markdown, unless they are marked `safe`.
    """
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (package, "fend.audit.render")]),
        autoescape=True,
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    # Text that may be Markdown, but not HTML.
    templates.filters["prose"] = lambda text: Markup(str(text).translate(ESCAPES))
    return templates


def escape(value: object) -> Markup:
    """`value` as text of a paragraph or of a table's cell."""
    if isinstance(value, Markup):
        return value
    text = MARKS.sub(r"\\\g<0>", printable(str(value)).translate(ESCAPES))
    return Markup(ADDRESS.sub(lambda found: f"&#{ord(found[0])};", text))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Markup:
    """A table as Markdown, with its cells escaped."""
    module = markdown_templates().get_template("table.md.j2").module
    return Markup(module.table(head, rows))  # type: ignore[attr-defined]
