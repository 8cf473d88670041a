"""
The dashboard: one page and its few files, handed out as they lie in `assets/`.

Nothing in them is secret, so they need no token; what the page shows it asks of the API. It runs no
script and takes no style but its own, and shows pictures and videos of our bucket only: the
`Content-Security-Policy` says so, and browsers hold it.
"""

import asyncio
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from aiohttp import web
from loguru import logger
from yarl import URL

from vidgen.errors import VidgenError
from vidgen.resources import Resources
from vidgen.server.keys import RESOURCES

PAGE = "index.html"
CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # Asked for again each time, and answered with 304: files of two releases never mix.
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

routes = web.RouteTableDef()


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One file, read once per process."""

    body: bytes = field(repr=False)
    packed: bytes = field(repr=False)
    content_type: str
    digest: str


@routes.get("/")
async def page(request: web.Request) -> web.Response:
    """The page itself."""
    answer = _answer(request, (await asyncio.to_thread(_assets))[PAGE])
    bucket = " ".join(await _bucket_origins(request.app[RESOURCES]))
    answer.headers["Content-Security-Policy"] = _policy(bucket)
    answer.headers["X-Frame-Options"] = "DENY"
    return answer


@routes.get("/assets/{file}")
async def asset(request: web.Request) -> web.Response:
    """A script, the style or the icon. Only names in the folder exist: a path leads nowhere."""
    found = (await asyncio.to_thread(_assets)).get(request.match_info["file"])
    if found is None:
        raise web.HTTPNotFound
    return _answer(request, found)


@cache
def _assets() -> Mapping[str, Asset]:
    return {
        file.name: _asset(file.read_bytes(), content_type)
        for file in files("vidgen.server").joinpath("assets").iterdir()
        if (content_type := CONTENT_TYPES.get(f".{file.name.rpartition('.')[2]}"))
    }


def _asset(body: bytes, content_type: str) -> Asset:
    return Asset(
        body=body,
        packed=gzip.compress(body, mtime=0),
        content_type=content_type,
        digest=hashlib.sha256(body).hexdigest()[:32],
    )


def _answer(request: web.Request, asset: Asset) -> web.Response:
    packs = "gzip" in request.headers.get("Accept-Encoding", "")
    etag = f"{asset.digest}-gz" if packs else asset.digest
    headers = HEADERS | {"ETag": f'"{etag}"'}
    if any(known.value in {etag, "*"} for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = asset.content_type
    if packs:
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=asset.packed if packs else asset.body, headers=headers)


def _policy(bucket: str) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            f"img-src 'self' data: {bucket}".rstrip(),
            f"media-src 'self' {bucket}".rstrip(),
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            # No text ever becomes markup: browsers that know this refuse `innerHTML` as a whole.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        ]
    )


async def _bucket_origins(resources: Resources) -> list[str]:
    """Where results are sent to be played from: the public address, and that of signed ones."""
    addresses = [resources.storage.public_url("x")]
    try:
        addresses.append(await resources.storage.signed_base())
    except VidgenError as error:  # the page is of use without videos
        logger.warning("the page will play no videos", code=error.code, reason=error.message)
    return sorted({str(URL(address).origin()) for address in addresses if address})
