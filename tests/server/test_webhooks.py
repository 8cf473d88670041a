"""Providers call: what is right wakes a poll, and whatever else comes changes nothing."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp.test_utils import TestClient, TestServer
from loguru import logger
from pydantic import SecretStr
from redis.asyncio import Redis
from standardwebhooks import Webhook
from uuid_utils.compat import uuid7

from tests.builders import WORKER, an_operation
from tests.proxy import Proxy
from tests.server.conftest import Client
from tests.store.conftest import claimed, inserted
from vidgen import lifecycle, live
from vidgen.dispatch import Bell
from vidgen.job import Operation, VideoJob
from vidgen.resources import Resources
from vidgen.server import webhooks
from vidgen.server.app import build
from vidgen.server.body import SMALL_BYTES
from vidgen.settings import Settings
from vidgen.store import jobs
from vidgen.store.pool import Connection
from vidgen.webhook import WebhookType

SECRET = f"whsec_{b64encode(bytes(range(32))).decode()}"
OTHER = f"whsec_{b64encode(bytes(range(24))).decode()}"
OPENAI, GEMINI = "/api/webhooks/openai", "/api/webhooks/gemini"
README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    secret = SecretStr(SECRET)
    return settings.model_copy(
        update={"openai_webhook_secret": secret, "gemini_webhook_secret": secret}
    )


@pytest.fixture
def warnings() -> Iterator[list[dict[str, Any]]]:
    """What was logged as a warning or worse."""
    lines: list[dict[str, Any]] = []
    sink = logger.add(lambda said: lines.append(dict(said.record["extra"])), level="WARNING")
    yield lines
    logger.remove(sink)


def an_event(operation_id: object = "video_1", kind: object = "video.completed") -> bytes:
    """As OpenAI's guide shows it."""
    event = {"id": "evt_1", "object": "event", "created_at": 1, "type": kind}
    return json.dumps({**event, "data": {"id": operation_id}}).encode()


def signed(
    body: bytes, *, secret: str = SECRET, at: datetime | None = None, webhook_id: str | None = None
) -> dict[str, str]:
    at = at or datetime.now(UTC)
    webhook_id = webhook_id or f"wh_{uuid7()}"
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(secret).sign(webhook_id, at, body.decode()),
    }


async def post(
    client: Client, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    async with client.post(path, data=body, headers=headers) as response:
        return response.status, await response.json(
            content_type=None
        ) if response.status >= 300 else {}


async def generating(connection: Connection, operation: Operation) -> VideoJob:
    """A job that WORKER polls."""
    job = await claimed(connection, await inserted(connection))
    for change in (lifecycle.submitting(job), lifecycle.submitted(job.attempt + 1, operation)):
        job = await jobs.apply(connection, job.id, change, lease=job.lease)
    return job


@asynccontextmanager
async def hearing(resources: Resources, job_id: UUID) -> AsyncIterator[asyncio.Event]:
    """Be WORKER while it sleeps between two looks at *job_id*; set once it woke."""
    wakes, woke = live.Wakes(), asyncio.Event()

    async def sleep() -> None:
        with wakes.expected(job_id):
            await live.nap(3600)
        woke.set()

    async with asyncio.TaskGroup() as group:
        ear = group.create_task(live.hear_calls(resources.redis, WORKER, wakes, Bell("a queue")))
        sleeper = group.create_task(sleep())
        await subscribed(resources.redis)
        yield woke
        ear.cancel()
        sleeper.cancel()


async def subscribed(redis: Redis) -> None:
    """Wait until WORKER can be called."""
    async with asyncio.timeout(15):
        while True:
            [(_, count)] = await redis.pubsub_numsub(f"vidgen:calls:{WORKER}")
            if count:
                return
            await asyncio.sleep(0.005)


async def wakes_up(woke: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(5):
            return await woke.wait()
    except TimeoutError:
        return False


def at_openai(settings: Settings) -> Operation:
    return replace(an_operation("video_1"), endpoint=settings.openai_base_url)


def at_gemini(settings: Settings, name: str) -> Operation:
    return Operation(
        provider="veo",
        id=name,
        endpoint=settings.gemini_base_url,
        model="veo-3.1-generate-preview",
        credential_id="server",
    )


@pytest.fixture
async def connection(resources: Resources) -> AsyncIterator[Connection]:
    async with resources.database.connection() as connection:
        yield connection


# --- what is right ---


@pytest.mark.parametrize("kind", ["video.completed", "video.failed"])
async def test_openai_wakes_the_poll_of_its_video(
    stranger: Client, resources: Resources, connection: Connection, kind: str
) -> None:
    job = await generating(connection, at_openai(resources.settings))
    body = an_event(kind=kind)
    async with hearing(resources, job.id) as woke:
        status, _ = await post(stranger, OPENAI, body, signed(body))

        assert status == 204
        assert await wakes_up(woke)

    assert await jobs.get(connection, job.id) == job  # nothing is changed


@pytest.mark.parametrize(
    "called", ["models/veo-3.1-generate-preview/operations/abc", "operations/abc", "abc"]
)
async def test_gemini_wakes_the_poll_of_its_video_however_it_names_it(
    stranger: Client,
    resources: Resources,
    connection: Connection,
    settings: Settings,
    called: str,
) -> None:
    name = "models/veo-3.1-generate-preview/operations/abc"
    job = await generating(connection, at_gemini(settings, name))
    data = {"id": called, "output_file_uri": "https://x/files/1", "file_name": "files/1"}
    body = json.dumps(
        {"type": "video.generated", "version": "v1", "timestamp": "2026-01-22T12:00:00Z"}
        | {"data": data}
    ).encode()
    async with hearing(resources, job.id) as woke:
        status, _ = await post(stranger, GEMINI, body, signed(body))

        assert status == 204
        assert await wakes_up(woke)


async def test_either_secret_opens_while_it_is_changed(resources: Resources) -> None:
    body = an_event()
    async with calling(resources, openai_webhook_secret=SecretStr(f"{SECRET},{OTHER}")) as client:
        for secret in (SECRET, OTHER):
            assert (await post(client, OPENAI, body, signed(body, secret=secret)))[0] == 204


@pytest.mark.parametrize("kind", ["batch.completed", "response.completed", "video.begun", ""])
async def test_what_is_none_of_our_business_is_taken_and_forgotten(
    stranger: Client, kind: str, warnings: list[dict[str, Any]]
) -> None:
    body = json.dumps({"type": kind, "data": {"id": "x"}}).encode()

    assert (await post(stranger, OPENAI, body, signed(body)))[0] == 204
    assert warnings == []


async def test_a_video_that_nobody_polls_is_no_mistake(
    stranger: Client,
    resources: Resources,
    connection: Connection,
    warnings: list[dict[str, Any]],
) -> None:
    job = await generating(connection, at_openai(resources.settings))
    await jobs.apply(connection, job.id, lifecycle.released(job, "hand_over"), lease=job.lease)

    for operation_id in ("video_1", "video_of_somebody_else", "';--", "🎬"):
        body = an_event(operation_id)
        assert (await post(stranger, OPENAI, body, signed(body)))[0] == 204

    assert warnings == []


async def test_whoever_tries_again_is_thanked_and_wakes_nobody_twice(
    stranger: Client, resources: Resources, connection: Connection
) -> None:
    job = await generating(connection, at_openai(resources.settings))
    body, now = an_event(), datetime.now(UTC)
    first = signed(body, at=now - timedelta(seconds=2), webhook_id="wh_1")
    second = signed(body, at=now, webhook_id="wh_1")
    assert (await post(stranger, OPENAI, body, first))[0] == 204

    async with hearing(resources, job.id) as woke:
        assert (await post(stranger, OPENAI, body, second))[0] == 204
        fresh = signed(body, webhook_id="wh_2")
        assert not woke.is_set()
        await post(stranger, OPENAI, body, fresh)
        assert await wakes_up(woke)


async def test_what_redis_remembers_of_a_webhook_ends_by_itself(
    stranger: Client, resources: Resources
) -> None:
    body = an_event()
    await post(stranger, OPENAI, body, signed(body))

    [key] = await resources.redis.keys("vidgen:webhook:*")

    assert 600 < await resources.redis.ttl(key) <= webhooks.REMEMBERED_S


# --- what is not ---


@asynccontextmanager
async def calling(resources: Resources, **changes: SecretStr | None) -> AsyncIterator[Client]:
    """Somebody without the token, where *changes* to the settings hold."""
    settings = resources.settings.model_copy(update=changes)
    async with TestClient(TestServer(build(replace(resources, settings=settings)))) as client:
        yield client


async def test_without_its_secret_there_is_no_such_route(resources: Resources) -> None:
    body = an_event()
    async with calling(resources, openai_webhook_secret=None, gemini_webhook_secret=None) as client:
        for path in (OPENAI, GEMINI):
            status, problem = await post(client, path, body, signed(body))

            assert (status, problem["success"]) == (404, False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """
    A webhook that is not right.

    Attributes:
        sign: Its headers, made when it is sent: a signature is too old after five minutes.
    """

    body: bytes
    sentence: str
    sign: Callable[[bytes], dict[str, str]] = signed


REJECTED = {
    "forged": Rejected(an_event(), "no signature", lambda body: signed(body, secret=OTHER)),
    "unsigned": Rejected(an_event(), "webhook-id", lambda _: {}),
    "changed": Rejected(an_event("video_2"), "no signature", lambda _: signed(an_event())),
    "not JSON": Rejected(b"{", "no event"),
    "empty": Rejected(b"", "no event"),
    "a list": Rejected(b"[]", "no event"),
    "null": Rejected(b"null", "no event"),
    "a number": Rejected(b"7", "no event"),
    "without data": Rejected(b'{"type": "video.completed"}', "no event"),
    "data of text": Rejected(b'{"type": "video.completed", "data": "x"}', "no event"),
    "a type of numbers": Rejected(an_event(kind=7), "no event"),
    "an id of numbers": Rejected(an_event(7), "names no video"),
    "an empty id": Rejected(an_event(""), "names no video"),
    "an endless id": Rejected(an_event("x" * 501), "names no video"),
    "an id with a null": Rejected(an_event("a\0"), "names no video"),
}


@pytest.mark.parametrize("name", REJECTED)
async def test_what_is_not_right_is_refused_with_one_line(
    stranger: Client, resources: Resources, name: str, warnings: list[dict[str, Any]]
) -> None:
    sent = REJECTED[name]

    status, problem = await post(stranger, OPENAI, sent.body, sent.sign(sent.body))

    assert (status, problem["code"], problem["success"]) == (400, "webhook_invalid", False)
    assert sent.sentence in problem["message"]
    [line] = warnings
    assert (line["source"], line["code"]) == ("openai", "webhook_invalid")
    assert await resources.redis.keys("vidgen:webhook:*") == []


@pytest.mark.parametrize("minutes", [-6, 6])
async def test_a_stale_one_is_refused(stranger: Client, minutes: int) -> None:
    body = an_event()
    sent = signed(body, at=datetime.now(UTC) + timedelta(minutes=minutes))

    status, problem = await post(stranger, OPENAI, body, sent)

    assert (status, problem["code"]) == (400, "webhook_invalid")


async def test_a_copy_is_refused(
    stranger: Client,
    resources: Resources,
    connection: Connection,
    warnings: list[dict[str, Any]],
) -> None:
    job = await generating(connection, at_openai(resources.settings))
    body = an_event()
    sent = signed(body)
    await post(stranger, OPENAI, body, sent)

    async with hearing(resources, job.id) as woke:
        status, problem = await post(stranger, OPENAI, body, sent)
        assert not woke.is_set()

    assert (status, problem["code"]) == (409, "invalid_state")
    assert "was here before" in problem["message"]
    assert len(warnings) == 1


async def test_one_for_openai_is_none_for_gemini(resources: Resources) -> None:
    body = an_event()
    async with calling(resources, gemini_webhook_secret=SecretStr(OTHER)) as client:
        assert (await post(client, GEMINI, body, signed(body)))[0] == 400


@pytest.mark.parametrize("chunked", [False, True], ids=["told", "chunked"])
async def test_a_large_one_is_not_read(
    stranger: Client, warnings: list[dict[str, Any]], chunked: bool
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100_000):  # 1.6 GB, unless somebody stops it
            yield b"x" * 16_384

    body: Any = endless() if chunked else b"x" * (SMALL_BYTES + 1)
    async with stranger.post(OPENAI, data=body, headers=signed(b"x")) as response:
        problem = await response.json(content_type=None)

    assert (response.status, problem["success"]) == (413, False)
    assert len(warnings) == 1


async def test_one_of_the_largest_size_is_read(stranger: Client) -> None:
    body = an_event().ljust(SMALL_BYTES)

    assert (await post(stranger, OPENAI, body, signed(body)))[0] == 204


async def test_a_body_that_never_ends_is_not_waited_for(
    stranger: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidgen.server.body.SMALL_TOTAL_S", 0.1)

    async def stalling() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(5)

    async with stranger.post(OPENAI, data=stalling(), headers=signed(b"{")) as response:
        assert response.status == 408


async def test_only_post_is_taken(stranger: Client) -> None:
    async with stranger.get(OPENAI) as response:
        assert response.status == 405


# --- with a server away ---


async def test_nothing_is_lost_without_redis(
    stranger: Client, redis_proxy: Proxy, warnings: list[dict[str, Any]]
) -> None:
    await redis_proxy.cut()
    body = an_event()

    status, _ = await post(stranger, OPENAI, body, signed(body))

    assert status == 204
    assert len(warnings) == 1


async def test_without_postgresql_the_provider_is_asked_to_come_again(
    stranger: Client, database_proxy: Proxy
) -> None:
    await database_proxy.cut()
    body = an_event()

    status, problem = await post(stranger, OPENAI, body, signed(body))

    assert (status, problem["code"]) == (503, "database_unavailable")


async def test_a_worker_hears_again_after_redis_was_away(
    stranger: Client,
    resources: Resources,
    connection: Connection,
    redis_proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(live, "RECONNECT_WAIT_S", 0.05)
    job = await generating(connection, at_openai(resources.settings))
    async with hearing(resources, job.id) as woke:
        await redis_proxy.cut()
        await asyncio.sleep(0.1)  # it notices
        await redis_proxy.restore()
        await subscribed(resources.redis)
        body = an_event()

        await post(stranger, OPENAI, body, signed(body))

        assert await wakes_up(woke)


async def test_a_subscription_that_went_deaf_is_made_anew(
    resources: Resources, redis_proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PING_INTERVAL_S", 0.2)
    monkeypatch.setattr(live, "RECONNECT_WAIT_S", 0.05)
    job_id = uuid7()
    async with hearing(resources, job_id) as woke:
        redis_proxy.mute()
        await asyncio.sleep(0.5)  # no answer to a ping
        redis_proxy.drop()
        await redis_proxy.cut()
        await redis_proxy.restore()
        async with asyncio.timeout(15):
            while not woke.is_set():
                await live.call(resources.redis, WORKER, job_id)
                await asyncio.sleep(0.02)


# --- the README ---


def test_the_readme_names_every_route_and_event() -> None:
    for route in webhooks.routes:
        assert f"`{route.method} {route.path}`" in README  # type: ignore[attr-defined]
    for kind in WebhookType:
        assert f"`{kind}`" in README
