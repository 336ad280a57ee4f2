"""The HTML report as a reader, a printer and an attacker meet it."""

import base64
import io
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import audit_rows
import numpy as np
import pytest
from PIL import Image

from fend.attacks import APGD, FGSM, PGD, Square
from fend.audit import Timing
from fend.audit.render.html import MOST_CLASSES, to_html
from fend.audit.render.pictures import data_uri, perturbation_uri
from fend.audit.rows import AttackRow
from fend.errors import Invalid
from fend.threat import Knowledge

GREY, WHITE, QUERY = Knowledge.GREY_BOX, Knowledge.WHITE_BOX, Knowledge.QUERY
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """The tags, attributes and text of a page; fails where a tag is not closed in its turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words)).replace("\N{NON-BREAKING HYPHEN}", "-")


@pytest.fixture
def made() -> Any:
    """Rows with something of everything."""
    rows = audit_rows.AuditRows(n=50, epsilons=(0.0, 0.1, 0.2, 0.3), examples=4)
    rows.breaks((WHITE, 1), range(15)).breaks((GREY, 1), range(5)).bends(0.3, range(30))
    return rows.shows((WHITE, 1), range(20)).serves((WHITE, 1), range(20), other=[0])


def test_the_page_says_what_matters_first(made: Any) -> None:
    text = Page(to_html(made.report())).text
    said = ("mnist", "70.0 %", "95 % interval 56.2 % to 80.9 %", "Partly holds", "which were not",
            "Of 100 such pictures about 70 are still labelled right after somebody who knows "
            "everything", "What the denoiser changes", "upper bound", "Accuracy under attack",
            "Accuracy against epsilon", "By class", "Examples", "Did the attacks work?", "Identity",
            "steps 20", "The whole audit again", "--spec request.json", "Words")  # fmt: skip
    places = [text.index(words) for words in said]
    assert places == sorted(places)
    for words in ("white-box PGD-20", "denoiser + classifier", "sha256:" + "1" * 64, "drawn with "
                  "seed 0", "19 of 20 as in the audit", '"norm": "linf"', "made|up"):  # fmt: skip
        assert words in text


def test_the_page_needs_nothing_but_itself(made: Any) -> None:
    html = to_html(made.report())
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "srcset", "data", "action", "xlink:href"):
            assert value.startswith("data:image/png;base64,")
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@page" in style
    assert "default-src 'none'" in html[: html.index("<style>")]


def test_nothing_from_outside_becomes_markup(made: Any) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=alert(1)> & \x00'
    made.source = made.source.model_copy(
        update={"model": evil, "dataset": evil, "device": evil, "surrogate": evil,
                "surrogate_version": evil, "label_names": (evil,) * 10}
    )  # fmt: skip
    report = made.report()
    line = report.lines[0].model_copy(update={"title": evil, "gradient_through": evil})
    html = to_html(report.model_copy(update={"lines": (line,), "verdict": evil}))
    page = Page(html)
    assert "script" not in page.tags
    assert not any(name == "onerror" for name, _ in page.attributes)
    assert all(value != "x" for name, value in page.attributes if name == "src")
    assert "<script>alert(1)</script>" in page.text


def test_a_failed_check_is_told_in_words_and_comes_first(made: Any) -> None:
    text = Page(to_html(made.change(AttackRow, range(50), zero_gradient=True).report())).text
    assert "✕ Unreliable" in text
    assert text.index("✕ FAIL") < text.index("✓ pass")
    assert "35 images of 50 held at white_box and never had a gradient" in text
    assert "Use a margin or dlr loss" in text


def test_a_report_without_probes_does_not_claim_to_be_checked():
    text = Page(to_html(audit_rows.AuditRows(probed=False, n=10).report())).text
    assert "partly checked" in text


def test_when_and_how_long_is_told_if_known(made: Any) -> None:
    began, ended = datetime(2026, 11, 24, 9, 30, tzinfo=UTC), datetime(2026, 11, 24, tzinfo=UTC)
    timing = Timing(started_at=began, finished_at=ended, wall_time_s=1_234.5)
    text = Page(to_html(made.report(), timing)).text
    assert "24 November 2026" in text
    assert "1,234 s on cpu" in text


def test_examples_show_the_answers(made: Any) -> None:
    html = to_html(made.report())
    text = Page(html).text
    assert html.count("<img ") == 4 * 4
    assert "“zero”, image 0" in text
    assert "✕ fooled" in text
    assert "zero (90%)" in text
    assert "one (50%)" in text


def test_a_perturbation_is_grey_where_nothing_changed() -> None:
    def picture(pixels: list[int]) -> str:
        written = io.BytesIO()
        Image.fromarray(np.array([pixels], np.uint8)).save(written, "PNG")
        return base64.b64encode(written.getvalue()).decode()

    uri = perturbation_uri(picture([100, 100, 100, 100]), picture([100, 151, 49, 126]))
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    assert shown.tolist() == [[128, 255, 0, 192]]
    same = perturbation_uri(picture([7, 7]), picture([7, 7]))
    assert set(np.asarray(Image.open(io.BytesIO(base64.b64decode(same.split(",")[1]))))[0]) == {128}
    with pytest.raises(Invalid, match="differ"):
        perturbation_uri(picture([7, 7]), picture([7]))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no base64!",
        base64.b64encode(b"<svg onload=alert(1)>").decode(),
        base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 40).decode(),
    ],
)
def test_only_pictures_are_put_on_the_page(text: str) -> None:
    with pytest.raises(Invalid, match=r"no PNG in base64: (?!.* at 0x)"):
        data_uri(text)


def test_what_hides_behind_a_picture_is_left_out() -> None:
    written = io.BytesIO()
    Image.new("L", (2, 2)).save(written, "PNG")
    hidden = base64.b64encode(written.getvalue() + b"<script>").decode()
    assert b"<script>" not in base64.b64decode(data_uri(hidden).split(",")[1])


def test_odd_audits_have_a_page_too():
    one = audit_rows.AuditRows((FGSM(),), (WHITE,), n=1, probed=False, examples=0).errs([0])
    cascade = audit_rows.AuditRows((PGD(), APGD()), (WHITE,), n=3, cascade=True)
    cascade.breaks((WHITE, 0), range(3)).skips((WHITE, 1), range(3))
    queries = audit_rows.AuditRows((Square(),), (QUERY,), n=3)
    still = audit_rows.AuditRows(threat={"epsilon": 0}, n=3, epsilons=(0.0,))
    for rows in (one, cascade, queries, still):
        html = to_html(rows.report())
        assert "Accuracy under attack" in Page(html).text
        assert not re.search(r"\bnan\b|\binf\b", html[html.index("<svg") :])
    assert "(a cascade)" in Page(to_html(cascade.report())).text


def test_a_thousand_classes_leave_the_plot_readable(made: Any) -> None:
    report = made.report()
    line = report.classes[0]
    many = tuple(line.model_copy(update={"index": i, "label": f"class {i}"}) for i in range(1_000))
    html = to_html(report.model_copy(update={"classes": many}))
    assert f"{MOST_CLASSES} of 1000 classes" in Page(html).text
    assert html.count('class="frame"') == MOST_CLASSES


def test_equal_reports_are_equal_pages(made: Any) -> None:
    assert to_html(made.report()) == to_html(made.report())
