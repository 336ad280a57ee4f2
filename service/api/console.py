"""GET /, for now a page that says where to go; GET /docs, which loads nothing from elsewhere."""

from importlib.resources import files

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.exceptions import HTTPException

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

DOCS = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Fend: the API</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
"""
START = """\
SwaggerUIBundle({
  url: "openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null
});
"""
STATIC = ("swagger-ui.css", "swagger-ui-bundle.js")
"""Files of Swagger UI, from the package fastapi-offline."""

SHARED = "base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'unsafe-inline'; {SHARED}",
    "Referrer-Policy": "no-referrer",
}
"""The page may load nothing and be put in no frame."""
DOCS_HEADERS = HEADERS | {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
        f"img-src 'self' data: blob:; connect-src 'self'; {SHARED}"
    )
}
"""A key is typed here: scripts and requests stay on this origin."""

router = APIRouter(include_in_schema=False)


@router.get("/", response_class=HTMLResponse)
async def home(request: Request) -> HTMLResponse:
    """The page."""
    root_path = request.scope.get("root_path", "")
    return HTMLResponse(PAGE.replace('href="/', f'href="{root_path}/'), headers=HEADERS)


@router.get("/docs", response_class=HTMLResponse)
async def docs() -> HTMLResponse:
    """The page that shows /openapi.json and lets people try it."""
    return HTMLResponse(DOCS, headers=DOCS_HEADERS)


@router.get("/docs/{name}", response_class=Response)
async def docs_file(name: str) -> Response:
    """What that page loads."""
    if name == "start.js":
        return Response(START, media_type="text/javascript")
    if name not in STATIC:
        raise HTTPException(404)
    return FileResponse(str(files("fastapi_offline") / "static" / name))
