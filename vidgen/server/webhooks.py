"""
Providers call us when a video is ready: it only ends the wait until the next look at it.

Nothing here changes a job, so the worst that a webhook can do is one look too many, and one that
never comes costs the rest of a wait. That is why Redis remembers which ones we had, and no table:
the memory must last as long as a copy would be fresh, and where it is lost nothing is.

OpenAI (its guide, and the `openai` library): Standard Webhooks, HMAC; `video.completed` and
`video.failed` with the video in `data.id`.

Gemini API (its page on webhooks, of May 2026): static webhooks are Standard Webhooks with HMAC and
a `whsec_` secret; `video.generated` comes with `id`, `output_file_uri` and `file_name` in `data`.
Not verified with a live account: whether `data.id` is the whole name of the operation or its last
part, so both are understood; and what becomes of a generation that fails, as the page names no
event for it. Dynamic webhooks, named in a request and signed by Google's own keys, are not taken:
vidgen asks for none.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
from aiohttp import web
from loguru import logger
from pydantic import SecretStr

from vidgen import catalog, live, webhook
from vidgen.dispatch import redis_errors
from vidgen.errors import DispatchError, InvalidStateError, VidgenError, WebhookInvalidError
from vidgen.resources import Resources
from vidgen.server.body import read
from vidgen.server.keys import RESOURCES
from vidgen.settings import Settings
from vidgen.store import operations

# A copy is fresh from five minutes before its time until five minutes after.
REMEMBERED_S = 2 * round(webhook.TOLERANCE.total_seconds()) + 60
MAX_OPERATION_CHARS = 500

Source = Literal["openai", "gemini"]

routes = web.RouteTableDef()


@routes.post("/api/webhooks/openai")
async def openai(request: web.Request) -> web.Response:
    """Look at a video of OpenAI now: 204, also for what is none of our business."""
    settings = request.app[RESOURCES].settings
    return await _receive(request, _openai(settings), settings.openai_webhook_secret)


@routes.post("/api/webhooks/gemini")
async def gemini(request: web.Request) -> web.Response:
    """Look at a video of the Gemini API now: 204, also for what is none of our business."""
    settings = request.app[RESOURCES].settings
    return await _receive(request, _gemini(settings), settings.gemini_webhook_secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Caller:
    """
    Who calls, and about what.

    Attributes:
        types: The events that tell of the end of a generation.
        endpoint: Where our operations at it live.
        models: Whose names stand before those of operations, if any do.
    """

    source: Source
    types: frozenset[str]
    endpoint: str
    models: tuple[str, ...] = ()

    def names(self, called_id: str) -> list[str]:
        """The operations that *called_id* may stand for."""
        last = called_id.rpartition("/")[2]
        return [called_id, *(f"models/{model}/operations/{last}" for model in self.models)]


def _openai(settings: Settings) -> _Caller:
    types = frozenset({"video.completed", "video.failed"})
    return _Caller(source="openai", types=types, endpoint=settings.openai_base_url)


def _gemini(settings: Settings) -> _Caller:
    return _Caller(
        source="gemini",
        types=frozenset({"video.generated"}),
        endpoint=settings.gemini_base_url,
        models=tuple(model.name for model in catalog.models() if model.api == "gemini"),
    )


async def _receive(request: web.Request, caller: _Caller, secret: SecretStr | None) -> web.Response:
    if secret is None:
        raise web.HTTPNotFound
    resources = request.app[RESOURCES]
    with logger.contextualize(source=caller.source):
        try:
            await _take(resources, request, caller, secret)
        except web.HTTPException as error:
            logger.warning("webhook rejected", reason=error.reason)
            raise
        except VidgenError as error:
            logger.warning("webhook rejected", code=error.code, reason=error.message)
            raise
    return web.Response(status=204)


async def _take(
    resources: Resources, request: web.Request, caller: _Caller, secret: SecretStr
) -> None:
    body = await read(request)
    headers = request.headers
    webhook_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    webhook.verify(
        webhook.secrets_of(secret.get_secret_value()),
        webhook_id=webhook_id,
        timestamp=timestamp,
        signature=headers.get("webhook-signature", ""),
        body=body,
        now=datetime.now(UTC),
    )
    called_id = _called_id(body, caller)
    try:
        if called_id is not None and await _is_new(resources, caller, webhook_id, timestamp):
            await _wake(resources, caller, called_id)
    except DispatchError as error:
        logger.warning("webhook not passed on, the next look comes anyway", reason=error.message)


def _called_id(body: bytes, caller: _Caller) -> str | None:
    """What the webhook is about; None if it tells of no end of a generation."""
    try:
        event: Any = orjson.loads(body)
        kind = event["type"]
        if not isinstance(kind, str):
            raise TypeError
        if kind not in caller.types:
            logger.debug("webhook of no interest", type=kind[:100])
            return None
        called_id = event["data"]["id"]
    except (orjson.JSONDecodeError, KeyError, TypeError, IndexError) as error:
        raise WebhookInvalidError("the webhook is no event with a type and an id") from error
    if not isinstance(called_id, str) or not 0 < len(called_id) <= MAX_OPERATION_CHARS:
        raise WebhookInvalidError("the webhook names no video")
    if not called_id.isprintable():  # nor could PostgreSQL look for it
        raise WebhookInvalidError("the webhook names no video")
    return called_id


async def _is_new(resources: Resources, caller: _Caller, webhook_id: str, timestamp: str) -> bool:
    """
    Whether we had this webhook not yet; False if its sender tries again, with a new timestamp.

    Raises:
        InvalidStateError: It is a copy, which only somebody else sends.
    """
    digest = hashlib.sha256(webhook_id.encode()).hexdigest()
    key = f"vidgen:webhook:{caller.source}:{digest}"
    redis = resources.redis
    async with redis_errors("remember a webhook"):
        if await redis.set(key, timestamp, nx=True, ex=REMEMBERED_S):
            return True
        first: bytes | None = await redis.get(key)
    if first == timestamp.encode():
        raise InvalidStateError("this very webhook was here before")
    return False


async def _wake(resources: Resources, caller: _Caller, called_id: str) -> None:
    names = caller.names(called_id)
    async with resources.database.connection() as connection:
        found = await operations.follower(connection, caller.endpoint, names)
    if found is None:
        logger.info("webhook for no video that is polled", operation_id=called_id)
        return
    heard = await live.call(resources.redis, found.worker_id, found.job_id)
    logger.info("provider called", jobId=str(found.job_id), operation_id=called_id, heard=heard)
