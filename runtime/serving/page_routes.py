"""The page at `/` and the page of the API at `/docs`, as files of this package. They load nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

FOLDER = Path(__file__).parent / "page"
#: Scripts, styles and requests come from this server alone; pictures may also be made in the browser.
POLICY = "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'self'; base-uri 'none'; form-action 'self'"
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}


def page_routes() -> APIRouter:
    """The routes of the pages and their files."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def page() -> Response:
        return FileResponse(FOLDER / "index.html", headers=HEADERS)

    @router.get("/docs")
    async def docs() -> Response:
        return FileResponse(FOLDER / "docs.html", headers=HEADERS)

    router.routes.append(Mount("/page", StaticFiles(directory=FOLDER)))
    return router
