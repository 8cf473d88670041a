"""Is this process alive, is it ready, and can the queue be worked on?"""

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import TypeVar

from aiohttp import web
from loguru import logger

from vidgen.document import iso
from vidgen.errors import DatabaseError, DispatchError, VidgenError
from vidgen.job import JsonValue
from vidgen.resources import Resources
from vidgen.server.keys import RESOURCES
from vidgen.store import workers

T = TypeVar("T")

CHECK_TIMEOUT_S = 3.0

routes = web.RouteTableDef()


@routes.get("/livez")
async def livez(_: web.Request) -> web.Response:
    """200 as long as the event loop turns."""
    return web.json_response({"status": "ok"})


@routes.get("/readyz")
async def readyz(request: web.Request) -> web.Response:
    """200 when PostgreSQL and Redis answer, else 503."""
    checks = await checked(request.app[RESOURCES])
    ready = is_healthy(checks)
    return web.json_response({"ready": ready, "checks": checks}, status=200 if ready else 503)


@routes.get("/api/health/worker")
async def worker_health(request: web.Request) -> web.Response:
    """The health of the queue: 200 with `healthy: true`, or 503 with what is wrong."""
    checks = await checked(request.app[RESOURCES])
    healthy = is_healthy(checks)
    return web.json_response(
        {"healthy": healthy, "timestamp": timestamp(), "checks": checks},
        status=200 if healthy else 503,
    )


async def checked(resources: Resources) -> dict[str, JsonValue]:
    """Ask Redis and PostgreSQL at the same time; each answers, or its error does."""
    async with asyncio.TaskGroup() as group:
        redis = group.create_task(_redis(resources))
        queue = group.create_task(_queue(resources))
    return {"redis": redis.result(), "queue": queue.result()}


def is_healthy(checks: dict[str, JsonValue]) -> bool:
    """Whether no check has an error."""
    return not any(isinstance(check, dict) and "error" in check for check in checks.values())


def timestamp() -> str:
    """Now, as the answers of this server say it."""
    return iso(datetime.now(UTC))


async def _redis(resources: Resources) -> dict[str, JsonValue]:
    try:
        latency_ms = await _within(resources.dispatcher.ping())
    except (DispatchError, TimeoutError) as error:
        return {"connected": False, "error": _told(error)}
    return {"connected": True, "latencyMs": round(latency_ms, 2)}


async def _queue(resources: Resources) -> dict[str, JsonValue]:
    try:
        active = await _within(_alive(resources))
    except (DatabaseError, TimeoutError) as error:
        return {"accessible": False, "error": _told(error)}
    return {"accessible": True, "activeWorkers": active}


def _told(error: VidgenError | TimeoutError) -> str:
    """The code for everybody, the sentence with hosts and users for the log."""
    if isinstance(error, TimeoutError):
        return "timeout"
    logger.warning("health check failed", code=error.code, reason=error.message)
    return error.code


async def _alive(resources: Resources) -> int:
    async with resources.database.connection() as connection:
        return await workers.alive(connection, resources.settings.lease_ttl_s)


async def _within(answer: Awaitable[T]) -> T:
    async with asyncio.timeout(CHECK_TIMEOUT_S):
        return await answer
