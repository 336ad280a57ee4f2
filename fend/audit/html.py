"""A report as one HTML page: no scripts, nothing loaded from elsewhere; light, dark, on paper."""

import json
from collections.abc import Iterator
from importlib.resources import files
from xml.etree.ElementTree import Element

from fend.audit.html_numbers import attacks, classes, curve, headline
from fend.audit.html_sanity import sanity
from fend.audit.markup import document, element, extend, table
from fend.audit.pictures import data_uri, perturbation_uri
from fend.audit.plots import level_name
from fend.audit.report import Example, Report, Timing, percent, threat_text

CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""The page forbids itself everything that it does not hold."""

HOW_TO_READ = (
    "An image counts only if it is answered right both clean and attacked.",
    "The worst case is per image: an image counts only if it survives every attack named. It is "
    "never an average, and not the lowest line.",
    "Every line is judged on the whole pipeline, which is what is served, whatever model the "
    "gradient went through.",
    "Intervals are 95 % Wilson intervals: how far the share may be from that of all such images. "
    "They say nothing of attacks that were not tried.",
    "A stronger attack can only lower these numbers. That an audit is reliable means that its "
    "attacks worked, not that the model is safe.",
)


def to_html(report: Report, timing: Timing | None = None) -> str:
    """The page, UTF-8. Everything that comes from the report is escaped.

    Raises:
        AuditRowsInvalid: an example is no PNG.
    """
    identity = report.identity
    style = files("fend.audit").joinpath("report.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=CONTENT_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"Robustness of {identity.model}: audit report"),
        element("style", style),
    )
    main = element(
        "main",
        _header(report, timing),
        headline(report),
        sanity(report),
        attacks(report),
        curve(report),
        classes(report),
        _examples(report),
        _identity(report, timing),
        _reading(),
    )
    return document(element("html", head, element("body", main), lang="en"))


def _header(report: Report, timing: Timing | None) -> Element:
    identity = report.identity
    when = None if timing is None else f" · {timing.finished_at:%d %B %Y, %H:%M} UTC"
    return element(
        "header",
        element("p", "Robustness audit", class_="kind"),
        element("h1", identity.model),
        element(
            "p",
            f"{identity.n:,} images of {identity.dataset} · ",
            threat_text(report.threat.norm, report.threat.epsilon),
            when,
            class_="about",
        ),
    )


def _examples(report: Report) -> Element | None:
    if not report.examples:
        return None
    return element(
        "section",
        element("h2", "Examples"),
        element(
            "p",
            "What the attacker sends, and what the pipeline makes of it. What was added is "
            "amplified: grey is unchanged, black and white are the largest change. Below are the "
            "answers of the pipeline on the clean image, of the bare classifier on the attacked "
            "one, and of the pipeline on the attacked one.",
            class_="note",
        ),
        extend(
            element("div", class_="examples"),
            (_example(example, report.identity.label_names) for example in report.examples),
        ),
    )


def _example(example: Example, names: tuple[str, ...]) -> Element:
    broken = example.answer != example.label
    title = f"“{names[example.label]}”, image {example.index}"
    pictures = (
        ("clean", data_uri(example.clean_png), _answer(
            names, example.clean_answer, example.clean_confidence)),
        ("added", perturbation_uri(example.clean_png, example.adversarial_png), ""),
        ("attacked", data_uri(example.adversarial_png), "bare: " + _answer(
            names, example.undefended_answer, example.undefended_confidence)),
        ("denoised", data_uri(example.denoised_png), _answer(
            names, example.answer, example.confidence)),
    )  # fmt: skip
    return element(
        "figure",
        element(
            "figcaption",
            element("strong", title),
            element("span", f"{level_name(example.knowledge)} {example.title}", class_="by"),
            element(
                "span",
                "✕ fooled" if broken else "✓ held",
                class_="mark failed" if broken else "mark passed",
            ),
        ),
        extend(
            element("div", class_="strip"),
            (
                element(
                    "div",
                    element("img", src=uri, alt=f"{title}, {what}"),
                    element("span", what, class_="what"),
                    element("span", answer or "\N{NO-BREAK SPACE}"),
                )
                for what, uri, answer in pictures
            ),
        ),
    )


def _answer(names: tuple[str, ...], answer: int | None, confidence: float | None) -> str:
    if answer is None or confidence is None:
        return "no answer (NaN)"
    return f"{names[answer]} ({confidence:.0%})"


def _identity(report: Report, timing: Timing | None) -> Element:
    spec = json.dumps(report.spec.model_dump(mode="json"), indent=2)
    return element(
        "section",
        element("h2", "Identity"),
        table(("What", "Value"), _facts(report, timing), "facts"),
        element(
            "details",
            element("summary", "The images' places in the data set"),
            element("pre", report.identity.indices.replace(",", ", ")),
        ),
        element("details", element("summary", "The audit as it was asked for, JSON"),
                element("pre", spec)),
    )  # fmt: skip


def _facts(report: Report, timing: Timing | None) -> Iterator[tuple[str, Element | str]]:
    identity, threat = report.identity, report.threat
    rules = "pixels stay in [0, 1]; any wrong answer counts as success"
    yield "Threat model", f"{threat_text(threat.norm, threat.epsilon)}; {rules}"
    yield "Model", identity.model
    yield "Model version", element("code", identity.model_version)
    if identity.surrogate is not None:
        yield "Surrogate", identity.surrogate
        yield "Surrogate version", element("code", identity.surrogate_version or "")
    yield "Data set", identity.dataset
    yield "Data set digest", element("code", identity.dataset_digest)
    yield "Images", f"{identity.n:,}, drawn with seed {identity.seed}"
    yield "Digest of their places", element("code", identity.index_digest)
    random = "at random; the majority of several passes is judged"
    yield "Answers", random if identity.randomised else "the same at each pass"
    if report.served is not None:
        served = report.served
        agreed = f"{served.agreed.correct} of {served.agreed.n} as in the audit"
        fooled = f"{served.still_broken} of {served.broken} adversarial images fool the service too"
        yield "Served answers", f"{agreed}; {fooled}"
    passes = f"{identity.forward_passes:,} forward, {identity.backward_passes:,} backward"
    yield "Attack passes", passes
    if timing is not None:
        yield "Began", f"{timing.started_at:%Y-%m-%d %H:%M:%S} UTC"
        yield "Took", f"{timing.wall_time_s:,.0f} s on {identity.device}"
    else:
        yield "Device", identity.device
    yield "Software", f"Fend {identity.fend_version}, PyTorch {identity.torch_version}"
    if report.not_finite:
        yield "Answers that were NaN or infinite", f"{report.not_finite}, counted as wrong"
    confidence = report.clean.mean_confidence
    if confidence is not None:
        yield "Mean confidence, clean", percent(confidence)
    yield "Report format", report.format


def _reading() -> Element:
    return element(
        "section",
        element("h2", "How to read this"),
        extend(Element("ul"), (element("li", text) for text in HOW_TO_READ)),
    )
