"""The aiohttp application, its one error boundary, and who may call what."""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from loguru import logger

from vidgen.errors import (
    DatabaseError,
    DispatchError,
    InvalidStateError,
    JobNotFoundError,
    RequestError,
    SettingsError,
    VidgenError,
)
from vidgen.resources import Resources
from vidgen.server import admin, health
from vidgen.server.keys import RESOURCES

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK = "127.0.0.1"
MAX_BODY_BYTES = 1024 * 1024
OPEN_PATHS = frozenset({"/livez", "/readyz", "/api/health/worker"})
SHUTDOWN_TIMEOUT_S = 2.0
_STATUS: dict[type[VidgenError], int] = {
    JobNotFoundError: 404,
    InvalidStateError: 409,
    DatabaseError: 503,
    DispatchError: 503,
    RequestError: 400,
}


def build(resources: Resources) -> web.Application:
    """The application over open *resources*."""
    app = web.Application(middlewares=[_errors, _authorised], client_max_size=MAX_BODY_BYTES)
    app[RESOURCES] = resources
    app.add_routes(health.routes)
    app.add_routes(admin.routes)
    return app


@asynccontextmanager
async def serving(resources: Resources) -> AsyncIterator[None]:
    """
    Serve for the length of the context; port 0 serves nothing.

    Raises:
        SettingsError: The port is taken.
    """
    settings = resources.settings
    if settings.http_port == 0:
        yield
        return
    host = settings.http_host
    if settings.admin_token is None and host != LOOPBACK:
        logger.warning("no ADMIN_TOKEN is set: serving on loopback only", host=LOOPBACK)
        host = LOOPBACK
    runner = web.AppRunner(build(resources), access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    try:
        await _listen(runner, host, settings.http_port)
        logger.info("server listening", host=host, port=settings.http_port)
        yield
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise SettingsError(
            f"VIDGEN_HTTP_PORT: {host}:{port} cannot be listened on ({error.strerror}); "
            "another port is wanted, or 0 for none"
        ) from error


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        response = _problem(error.status, "http_error", error.reason)
        if allow := error.headers.get("Allow"):
            response.headers["Allow"] = allow
        return response
    except VidgenError as error:
        status = _status(error)
        return _problem(status, error.code, error.message)
    except asyncio.CancelledError:
        raise
    except Exception:  # noqa: BLE001  the request boundary: no traceback leaves the process
        logger.exception("request ended with a defect", path=request.path, method=request.method)
        return _problem(500, "internal_error", "a defect of vidgen; its log has the details")


@web.middleware
async def _authorised(request: web.Request, handler: Handler) -> web.StreamResponse:
    secret = request.app[RESOURCES].settings.admin_token
    if secret is not None and request.path not in OPEN_PATHS:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        given = (
            token.strip().encode(errors="surrogateescape") if scheme.lower() == "bearer" else b""
        )
        if not hmac.compare_digest(given, secret.get_secret_value().encode()):
            response = _problem(
                401, "unauthorized", "this needs `Authorization: Bearer ADMIN_TOKEN`"
            )
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
    return await handler(request)


def _status(error: VidgenError) -> int:
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return status
    return 500


def _problem(status: int, code: str, message: str) -> web.Response:
    return web.json_response({"success": False, "code": code, "message": message}, status=status)
