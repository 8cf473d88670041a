"""
Bodies of requests: read no further than they may be long, and no slower than somebody would send.

Only a request for a video may be long, as it may have images inside. What all requests of a process
hold together has a bound as well, since each of them may be refused only after it was read.
"""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SMALL_BYTES = 64 * 1024
# Three images of 20 MiB as base64, and the rest.
LARGE_BYTES = 88 * 1024 * 1024
HELD_BYTES = 256 * 1024 * 1024
STALL_S = 10.0
SMALL_TOTAL_S = 20.0
LARGE_TOTAL_S = 300.0
TRY_AGAIN_S = 5


class Bodies:
    """How much the requests of this process hold."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.held_bytes = 0


BODIES = web.AppKey("bodies", Bodies)
_HELD = web.RequestKey("held", int)


async def read(
    request: web.Request, max_bytes: int = SMALL_BYTES, *, content_type: str | None = None
) -> bytes:
    """
    The whole body.

    Args:
        content_type: What it has to be where the request says what it is; None takes anything.

    Raises:
        web.HTTPException: 413 if it is longer, 408 if it comes too slowly, 415 if it is compressed
            or of another type, 503 if others hold too much.
    """
    if not _is_readable(request, content_type):
        wanted = f"as {content_type}, " if content_type else ""
        raise web.HTTPUnsupportedMediaType(reason=f"the body must be sent {wanted}uncompressed")
    if (request.content_length or 0) > max_bytes:
        raise _too_large(request, max_bytes)
    total_s = SMALL_TOTAL_S if max_bytes <= SMALL_BYTES else LARGE_TOTAL_S
    body = bytearray()
    try:
        async with asyncio.timeout(total_s):
            while chunk := await _chunk(request):
                _hold(request, len(chunk))
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(request, max_bytes)
    except TimeoutError as error:
        raise web.HTTPRequestTimeout from error
    return bytes(body)


@web.middleware
async def counted(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count what *request* holds until it is answered."""
    request[_HELD] = 0
    try:
        return await handler(request)
    finally:
        request.app[BODIES].held_bytes -= request[_HELD]


def _is_readable(request: web.Request, content_type: str | None) -> bool:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        return False
    if content_type is None or not request.body_exists or not request.headers.get("Content-Type"):
        return True
    return request.content_type == content_type


async def _chunk(request: web.Request) -> bytes:
    async with asyncio.timeout(STALL_S):
        return await request.content.readany()


def _hold(request: web.Request, size_bytes: int) -> None:
    bodies = request.app[BODIES]
    if bodies.held_bytes + size_bytes > HELD_BYTES:
        raise web.HTTPServiceUnavailable(headers={"Retry-After": str(TRY_AGAIN_S)})
    bodies.held_bytes += size_bytes
    request[_HELD] += size_bytes


def _too_large(request: web.Request, max_bytes: int) -> web.HTTPException:
    return web.HTTPRequestEntityTooLarge(
        max_size=max_bytes, actual_size=request.content_length or max_bytes + 1
    )
