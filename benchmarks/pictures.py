"""The pictures of the README: python -m benchmarks.pictures [FOLDER]

Starts the service with the shipped models, looks at its page with the system's Chromium, attacks a
drawn digit there, audits `mnist` on the digits that come with Fend, and takes a picture of both.
Takes two minutes. Needs the extra dev, and Debian's package chromium or Google Chrome.
"""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from fend.client import Client

FOLDER = Path(__file__).parents[1] / "docs/images"
TOKEN = "for-two-pictures-0123456789"
WIDTH_PX, HEIGHT_PX = 1100, 860
TIMEOUT_MS = 300_000
COLOURS = 128
"""Of the pictures: enough, and a third of the bytes."""


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("there is no Chromium here; Debian's package chromium is one")
    with _service() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page, report = (
            browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX}) for _ in range(2)
        )
        _attack(page, url)
        _take(page, folder / "page.png", whole=True)
        report.set_content(_report(url))
        _take(report, folder / "report.png")
        browser.close()


@contextmanager
def _service() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryDirectory() as state:
        own = {"FEND_PORT": str(port), "FEND_ADMIN_TOKEN": TOKEN, "FEND_STATE_DIR": state}
        process = subprocess.Popen(
            [sys.executable, "-m", "service"], env=os.environ | own, stdout=subprocess.DEVNULL
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _attack(page: Page, url: str) -> None:
    """The page after one of its sample digits was attacked."""
    with Client(url, patience_s=120) as client:
        client.models()  # waits until it serves
    page.set_default_timeout(TIMEOUT_MS)
    page.goto(url)
    page.click(".samples button >> nth=7")
    page.get_by_label("The attacker knows").select_option("grey_box")
    page.click("text=Attack now")
    page.fill("#token", TOKEN)
    page.click("#token-ok")
    page.wait_for_selector("text=/It (holds|falls)/")


def _report(url: str) -> str:
    with Client(url, key=TOKEN) as client:
        spec = {"preset": "quick", "model": "mnist", "dataset": "handwritten-digits"}
        audit = client.audits.start(spec)
        client.audits.follow(audit.id)
        return client.audits.report(audit.id, "html").decode()


def _take(page: Page, file: Path, *, whole: bool = False) -> None:
    """A picture of the page: `whole`, or what is seen first."""
    page.screenshot(path=file, full_page=whole)
    with Image.open(file) as image:
        image.convert("RGB").quantize(COLOURS).save(file, optimize=True)
    print(f"{file}: {file.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main()
