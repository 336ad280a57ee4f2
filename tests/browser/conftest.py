"""A service with its page, and the system's Chromium in front of it."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("playwright", reason="the extra dev brings Playwright")

from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
TIMEOUT_MS = 120_000
WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}


@pytest.fixture(scope="module")  # Playwright's event loop runs on this thread until it is closed
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; Debian's package chromium is one")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server(run_server, tiny_bundle_dir, tmp_path_factory) -> Iterator[Any]:
    with run_server(tiny_bundle_dir, tmp_path_factory.mktemp("state")) as running:
        yield running


@dataclass
class Visit:
    """A page that somebody looks at, and what went wrong behind their back."""

    page: Page
    origin: str
    token: str
    complaints: list[str] = field(default_factory=list)
    bytes: int = 0
    """What the page loaded of its own files."""

    def give_token(self, token: str | None = None) -> None:
        """Answer the dialog that asks for one."""
        self.page.wait_for_selector("#token-dialog[open]")
        self.page.fill("#token", self.token if token is None else token)
        self.page.click("#token-ok")

    def go(self, part: str) -> None:
        """By the link in the header."""
        self.page.click(f"nav a[href='#{part}']")
        self.page.wait_for_selector(f"#{part}:not([hidden]) h1")


@pytest.fixture
def open_page(browser: Browser, server: Any) -> Iterator[Callable[..., Visit]]:
    """`open_page(**options of a context)` gives a Visit. Whatever the console says, or is asked of
    another origin, fails the test."""
    visits: list[Visit] = []

    def opened(url: str | None = None, expected: str = "", **options: Any) -> Visit:
        context = browser.new_context(**(options or WIDE))
        context.set_default_timeout(TIMEOUT_MS)
        page = context.new_page()
        visit = Visit(page, url or server.base_url, server.token)

        def complain(text: str) -> None:
            if not expected or expected not in text:
                visit.complaints.append(text)

        def asked(request: Any) -> None:
            target = urlsplit(request.url)
            if (
                target.scheme in ("http", "https")
                and target.netloc != urlsplit(visit.origin).netloc
            ):
                visit.complaints.append(f"asked {request.url}")

        def answered(response: Any) -> None:
            if "/v1/" not in response.url and response.url.startswith("http"):
                visit.bytes += int(response.headers.get("content-length", 0))

        page.on(
            "console",
            lambda message: message.type in ("error", "warning") and complain(message.text),
        )
        page.on("pageerror", lambda error: complain(str(error)))
        page.on("request", asked)
        page.on("response", answered)
        page.goto(visit.origin)
        page.wait_for_selector(".samples img")
        visits.append(visit)
        return visit

    yield opened
    for visit in visits:
        visit.page.context.close()
        assert visit.complaints == []
