"""The aiohttp application, its one error boundary, and who may call what."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from loguru import logger

from vidgen.errors import (
    BudgetError,
    BudgetExceededError,
    BudgetNotFoundError,
    DatabaseError,
    DeliveryNotFoundError,
    DispatchError,
    IdempotencyConflictError,
    InvalidStateError,
    JobNotFoundError,
    KeyNotFoundError,
    NoEncryptionKeyError,
    NoResultError,
    RequestError,
    SettingsError,
    TooManyWatchersError,
    VidgenError,
)
from vidgen.queue import VideoQueue
from vidgen.resources import Resources
from vidgen.server import (
    admin,
    body,
    connection,
    deliveries,
    health,
    jobs,
    metrics,
    money,
    openapi,
    page,
    session,
    steering,
    users,
    vault,
    webhooks,
)
from vidgen.server.access import ACCESS, WEBHOOKS, Access, guarded, visitor_of
from vidgen.server.address import PROXIES
from vidgen.server.hub import Hub
from vidgen.server.keys import HUB, QUEUE, RESOURCES
from vidgen.server.operation import Operation, answer
from vidgen.server.problem import problem
from vidgen.settings import Settings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LOOPBACK = "127.0.0.1"
SHUTDOWN_TIMEOUT_S = 2.0
MAX_LOGGED_CHARS = 200
_KEPT = ("Allow", "Retry-After")  # of what aiohttp's own refusals tell
_STATUS: dict[type[VidgenError], int] = {
    BudgetError: 402,
    BudgetNotFoundError: 404,
    JobNotFoundError: 404,
    DeliveryNotFoundError: 404,
    NoResultError: 404,
    KeyNotFoundError: 404,
    NoEncryptionKeyError: 409,
    IdempotencyConflictError: 409,
    TooManyWatchersError: 503,
    InvalidStateError: 409,
    DatabaseError: 503,
    DispatchError: 503,
    RequestError: 400,
}


def operations() -> list[Operation]:
    """What `/openapi.json` describes."""
    return [
        *jobs.operations,
        *deliveries.operations,
        *steering.operations,
        *money.operations,
        *vault.operations,
        *users.operations,
        *session.operations,
    ]


def build(resources: Resources) -> web.Application:
    """The application over open *resources*."""
    traced = [_traced] if resources.tracing.is_on else []
    app = web.Application(
        middlewares=[connection.watched, _sealed, _errors, guarded, body.counted, *traced],
        client_max_size=body.SMALL_BYTES,  # of what is not read by `body`, if there ever is any
    )
    app[RESOURCES] = resources
    app[QUEUE] = VideoQueue.sharing(resources.settings, resources.database, resources.redis)
    app[HUB] = Hub(resources)
    app[ACCESS] = Access(resources.settings)
    app[PROXIES] = resources.settings.trusted_networks
    app[body.BODIES] = body.Bodies()
    app[metrics.ASKED] = metrics.Asked(resources)
    app.cleanup_ctx.append(_hub)
    app.on_shutdown.append(_end_streams)
    app.on_response_prepare.append(_name)
    for routes in (health.routes, admin.routes, metrics.routes, webhooks.routes, page.routes):
        app.add_routes(routes)
    app.add_routes([web.route(one.method, one.path, one.handler) for one in operations()])
    app.router.add_get("/openapi.json", _openapi)
    return app


async def _hub(app: web.Application) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(app[HUB].run())
        yield
        reading.cancel()


async def _end_streams(app: web.Application) -> None:
    app[HUB].end()  # before the connections are closed, so that each says a proper end


async def _name(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = connection.NAME  # aiohttp tells versions, of Python as well


async def _openapi(_: web.Request) -> web.Response:
    return answer(openapi.document(operations()))


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
    if settings.admin_token is None and settings.admin_tokens is None and host != LOOPBACK:
        logger.warning("no ADMIN_TOKEN is set: serving on loopback only", host=LOOPBACK)
        host = LOOPBACK
    runner = web.AppRunner(build(resources), access_log=None, shutdown_timeout=SHUTDOWN_TIMEOUT_S)
    await runner.setup()
    try:
        listening = await _listen(runner, settings, host)
        try:
            logger.info("server listening", host=host, port=settings.http_port)
            yield
        finally:
            listening.close()
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, settings: Settings, host: str) -> asyncio.Server:
    server, port = runner.server, settings.http_port
    assert server is not None  # it was set up
    try:
        return await connection.listen(server, settings, host, port)
    except OSError as error:
        raise SettingsError(
            f"VIDGEN_HTTP_PORT: {host}:{port} cannot be listened on ({error.strerror}); "
            "another port is wanted, or 0 for none"
        ) from error


@web.middleware
async def _sealed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What browsers need to know of every answer; the page has its own, wider policy."""
    response = await handler(request)
    if not response.prepared:
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        response.headers.setdefault("X-Frame-Options", "DENY")
        response.headers.setdefault(
            "Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"
        )
    return response


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        _note(request, error.status, "http_error")
        told = {name: error.headers[name] for name in _KEPT if name in error.headers}
        return problem(error.status, "http_error", error.reason, members={}, **told)
    except VidgenError as error:
        status = _status(error)
        _note(request, status, error.code)
        if isinstance(error, BudgetError):
            metrics.refused_for_money(error.code)
        if request.path.startswith(admin.PREFIX):
            return admin.refusal(status, error.code, error.message)
        return problem(status, error.code, error.message, members=_members(error))
    except asyncio.CancelledError:
        raise
    except Exception:  # noqa: BLE001  the request boundary: no traceback leaves the process
        logger.exception("request ended with a defect", path=request.path, method=request.method)
        return problem(500, "internal_error", "a defect of vidgen; its log has the details")


def _members(error: VidgenError) -> Mapping[str, object]:
    """What a program needs of *error* beside its sentence."""
    if not isinstance(error, BudgetExceededError):
        return {}
    names = ("scope", "period", "limit_micros", "spent_micros", "reserved_micros", "wanted_micros")
    budget = {name: getattr(error, name) for name in (*names, "frees_at")}
    return {"budget": budget}


def _note(request: web.Request, status: int, code: str) -> None:
    """One line for each refusal; what the sentence repeats of the request is not for the log."""
    if request.path.startswith(WEBHOOKS):
        return  # they have told it themselves, with their source
    logger.log(
        "INFO" if status < 500 else "WARNING",
        "request refused",
        method=request.method,
        path=request.path[:MAX_LOGGED_CHARS],
        status=status,
        code=code,
        who=visitor.name if (visitor := visitor_of(request)) else None,
    )


@web.middleware
async def _traced(request: web.Request, handler: Handler) -> web.StreamResponse:
    with request.app[RESOURCES].tracing.within(request.headers.get("traceparent")):
        return await handler(request)


def _status(error: VidgenError) -> int:
    for kind, status in _STATUS.items():
        if isinstance(error, kind):
            return status
    return 500
