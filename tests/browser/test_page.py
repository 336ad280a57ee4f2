"""What a person does on the page, in a real browser, on a real service."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.conftest import PHONE, WIDE, Visit

MAX_PAGE_BYTES = 250_000
GIVE = """([base64, how]) => {
    const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)), data = new DataTransfer();
    data.items.add(new File([bytes], "digit.png", { type: "image/png" }));
    const target = how === "paste" ? document : document.querySelector(".drop");
    target.dispatchEvent(how === "paste" ? new ClipboardEvent("paste", { clipboardData: data })
        : new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""
"""Drops or pastes a picture, as the browser itself tells the page of it."""


def _sentence(visit: Visit) -> str:
    return visit.page.locator("#try .sentence").first.inner_text()


@pytest.mark.parametrize("how", ["drop", "paste", "choose"])
def test_a_picture_is_classified_however_it_comes(open_page, digit_pngs, how, tmp_path):
    (png, label), visit = digit_pngs[0], open_page()
    if how == "choose":
        (tmp_path / "digit.png").write_bytes(png)
        visit.page.set_input_files(".drop input", tmp_path / "digit.png")
    else:
        visit.page.evaluate(GIVE, [base64.b64encode(png).decode(), how])
    assert _sentence(visit).startswith(f"{label}, ")
    assert visit.page.locator("#try .pictures figure").count() == 4


def test_a_drawing_is_classified_with_the_keyboard_alone(open_page: Callable[..., Visit]) -> None:
    visit = open_page()
    visit.page.focus("#try details summary")
    visit.page.keyboard.press("Enter")
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Space")
    for _ in range(15):
        visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Enter")
    assert _sentence(visit)


def test_what_is_no_picture_is_said(open_page: Callable[..., Visit], tmp_path: Path) -> None:
    visit = open_page(expected="the server responded with a status of 4")
    (tmp_path / "letter.txt").write_text("Dear Fend")
    visit.page.set_input_files(".drop input", tmp_path / "letter.txt")
    assert visit.page.locator("#try [role=alert]").inner_text()


def test_an_attack_goes_on_until_the_model_breaks(open_page: Callable[..., Visit]) -> None:
    visit = open_page()
    visit.page.click(".samples button >> nth=3")
    visit.page.wait_for_selector("text=Attack it")
    visit.page.click("text=Harder, until it breaks")
    visit.give_token()
    visit.page.wait_for_selector("text=/^It falls:/")
    assert visit.page.locator("svg.chart path").count() == 2
    assert visit.page.locator("text=What was added").count() == 1


def test_a_wrong_token_is_told_and_asked_for_again(open_page: Callable[..., Visit]) -> None:
    visit = open_page(expected="status of 401")
    visit.go("audits")
    visit.page.click("#audits button:has-text('Show')")
    visit.give_token("wrong")
    visit.page.wait_for_selector("text=That token was not accepted")
    visit.give_token()
    visit.page.wait_for_selector("text=No audit has been run yet")


def test_an_audit_is_started_watched_and_read(open_page: Callable[..., Visit]) -> None:
    visit = open_page()
    visit.go("audits")
    visit.page.fill("#audits .fields label:nth-of-type(2) input", "rendered-digits")
    visit.page.fill("#audits input[type=number]", "4")
    visit.page.click("text=Start the audit")
    visit.give_token()
    visit.page.wait_for_selector("#audits progress")
    report = visit.page.frame_locator("iframe")
    report.locator("h1").wait_for()
    assert "mnist" in report.locator("body").inner_text()


def test_a_model_shows_its_card_and_its_versions(open_page: Callable[..., Visit]) -> None:
    visit = open_page()
    visit.go("models")
    visit.page.click("#models summary")
    visit.page.wait_for_selector("#models .rendered :text('A tiny model')")
    visit.page.click("#models button:has-text('Versions')")
    visit.give_token()
    visit.page.wait_for_selector("#models td:has-text('active')")


def test_a_service_that_goes_and_comes_back_is_told(open_page):
    visit = open_page(expected="ERR_INTERNET_DISCONNECTED")
    visit.page.context.set_offline(True)
    visit.page.click(".samples button >> nth=1")
    visit.page.wait_for_selector("#trouble:not([hidden])")
    visit.page.context.set_offline(False)
    visit.page.wait_for_selector("#trouble", state="hidden")
    visit.page.click(".samples button >> nth=1")
    assert _sentence(visit)


@pytest.mark.parametrize("options", [WIDE, PHONE], ids=["wide", "phone"])
def test_everybody_can_use_it(open_page: Callable[..., Visit], options: dict[str, Any]) -> None:
    visit = open_page(**options)
    assert visit.bytes < MAX_PAGE_BYTES
    visit.page.click(".samples button >> nth=2")
    visit.page.wait_for_selector("text=Attack it")
    for part in ("try", "models", "audits"):
        visit.go(part)
        found = Axe().run(visit.page)
        assert found.violations_count == 0, found.generate_report()
        overflow = visit.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0, f"{part} is {overflow} px wider than the screen"
