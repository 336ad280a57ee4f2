"""GET /: for now a page that says where to go."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fend</title>
<style>body { font: 1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 3rem auto }</style>
<h1>Fend</h1>
<p>This service cleans an image with a denoiser, classifies it, and can attack itself.</p>
<ul>
  <li><a href="/docs">Try the API</a></li>
  <li><a href="/v1/models">Models</a></li>
  <li><a href="/readyz">Readiness</a> and <a href="/metrics">metrics</a></li>
</ul>
"""

router = APIRouter(include_in_schema=False)


HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}
"""The page may load nothing and be put in no frame."""


@router.get("/", response_class=HTMLResponse)
async def home() -> HTMLResponse:
    """The page."""
    return HTMLResponse(PAGE, headers=HEADERS)
