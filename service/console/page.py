"""GET / and GET /docs, and the files that they load: nothing comes from elsewhere.

The page asks the API like any other client, so nothing here knows a model.
"""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

FILES = Path(__file__).parent / "files"

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


POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; connect-src 'self'; frame-src blob:; "
    "base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
)
"""A key is typed here: scripts and requests stay on this origin. Inline styles are Swagger UI's,
and those of the reports, which the page shows in a frame that inherits this."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def home() -> FileResponse:
    """The page."""
    return FileResponse(FILES / "index.html", headers=HEADERS)


@router.get("/docs", response_class=HTMLResponse)
async def docs() -> HTMLResponse:
    """The page that shows /openapi.json and lets people try it."""
    return HTMLResponse(DOCS, headers=HEADERS)


@router.get("/docs/{name}", response_class=Response)
async def docs_file(name: str) -> Response:
    """What that page loads."""
    if name == "start.js":
        return Response(START, media_type="text/javascript")
    if name not in STATIC:
        raise HTTPException(404)
    return FileResponse(str(files("fastapi_offline") / "static" / name))


_files = StaticFiles(directory=FILES)


@router.get("/page/{name:path}", response_class=Response)
async def page_file(request: Request, name: str) -> Response:
    """What the page loads: styles, scripts, pictures. No mount: a proxy's prefix confuses those."""
    response = await _files.get_response(name, request.scope)
    response.headers.update(HEADERS)
    return response
