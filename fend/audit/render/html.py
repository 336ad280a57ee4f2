"""One HTML page: no scripts, nothing loaded from elsewhere; light, dark, on paper."""

from collections.abc import Callable
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from fend.audit.render.pictures import data_uri, perturbation_uri
from fend.audit.render.view import WORDS, settings, view_of
from fend.audit.report import Example, Report, Timing, interval, percent

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The page forbids itself everything that it does not hold."""

MOST_CLASSES = 20
"""Classes in the plot: of more, those with the lowest worst case."""


def to_html(report: Report, timing: Timing | None = None) -> str:
    """The page, UTF-8. Everything that comes from the report is escaped.

    Raises:
        Invalid (`audit_rows_invalid`): an example is no PNG.
    """
    return (
        _templates()
        .get_template("report.html.j2")
        .render(
            view=view_of(report),
            timing=timing,
            examples=[(example, _pictures(example)) for example in report.examples],
        )
    )


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("fend.audit.render"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"percent": percent, "interval": interval, "unbroken": _unbroken}
    templates.globals |= {
        "content_policy": CONTENT_POLICY,
        "most_classes": MOST_CLASSES,
        "scale": _scale,
        "settings": settings,
        "words": WORDS,
    }
    return templates


def _pictures(example: Example) -> tuple[tuple[str, str], ...]:
    """What each picture shows, and its address."""
    return (
        ("clean", data_uri(example.clean_png)),
        ("added", perturbation_uri(example.clean_png, example.adversarial_png)),
        ("attacked", data_uri(example.adversarial_png)),
        ("denoised", data_uri(example.denoised_png)),
    )


def _unbroken(name: str) -> str:
    """Such as white-box PGD-20, with hyphens at which no line breaks."""
    hyphen = "\N{NON-BREAKING HYPHEN}"
    return name.replace("_", hyphen).replace("-", hyphen)


def _scale(start: float, end: float, largest: float = 1.0) -> Callable[[float], float]:
    """From a value, 0 to `largest`, to its place between `start` and `end` in a plot."""
    return lambda value: round(start + (end - start) * value / largest, 1)
