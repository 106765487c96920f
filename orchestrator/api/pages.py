"""The web pages. They are the same for everybody and say nothing of the cluster: what they show they ask of the API."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from dashboards import web
from dashboards.web import Asset
from orchestrator.api.problems import not_found

_HEADERS = {
    "Content-Security-Policy": web.CONTENT_POLICY,
    "Permissions-Policy": web.PERMISSIONS_POLICY,
    # Asked for again each time, and answered with "unchanged": after an upgrade nobody sees half of the old page.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


def routes() -> APIRouter:
    """`/`, `/ui/…` and its files. No part of the described API."""
    router = APIRouter(include_in_schema=False)
    page, assets = web.page(), web.assets()

    @router.get("/")
    async def front() -> Response:
        return RedirectResponse("/ui/", headers=_HEADERS)

    @router.get("/ui/assets/{path:path}")
    async def asset(path: str, request: Request) -> Response:
        found = assets.get(path)
        if found is None:
            raise not_found("the pages have no file of that name")
        return _answer(found, request)

    @router.get("/ui")
    @router.get("/ui/{path:path}")
    async def any_page(request: Request) -> Response:
        return _answer(page, request)

    return router


def _answer(asset: Asset, request: Request) -> Response:
    headers = {**_HEADERS, "ETag": asset.etag}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = asset.content
    if asset.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
        content = asset.packed
        headers["Content-Encoding"] = "gzip"
    return Response(content, headers=headers, media_type=asset.media_type)
