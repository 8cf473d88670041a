"""Webhooks from end to end, through real workers: out to whoever asked, and in from providers."""

import asyncio
import json
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from pydantic import SecretStr
from standardwebhooks import Webhook

from tests.journeys.conftest import StartWorker
from tests.receiver import PATIENCE_S, SECRET, receiving
from vidgen import JobStatus, VideoRequest
from vidgen.document import job_document
from vidgen.job import EventType
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.store import deliveries
from vidgen.store.deliveries import Delivery
from vidgen.store.pool import connect

SORA = VideoRequest(provider="sora", prompt="a tram in the rain", seconds=4)
VEO = VideoRequest(provider="veo", prompt="a tram in the sun", seconds=4)


@pytest.fixture(autouse=True)
def quick(simulator: SimulatorServer) -> None:
    for provider in (simulator.sora, simulator.veo):
        provider.clip = render("tram", seconds=1, width=320, height=180, audio=False)
        provider.generation_s = 0.3


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_secrets": SecretStr(SECRET)})


async def newest(settings: Settings) -> Delivery:
    async with connect(settings.database_url) as connection:
        [delivery] = await deliveries.recent(connection, limit=1)
    return delivery


async def when(settings: Settings, holds: Callable[[Delivery], bool]) -> Delivery:
    """The newest delivery, once *holds* holds for it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await newest(settings)
            if holds(found):
                return found
            await asyncio.sleep(0.02)


async def delivered(settings: Settings) -> Delivery:
    return await when(settings, lambda found: found.state != "pending")


# --- out ---


async def test_who_asked_is_told_at_once_when_the_video_is_there(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker
) -> None:
    async with receiving() as receiver:
        worker = await start_worker(settings)
        job = await queue.enqueue(SORA, webhook_url=receiver.url, metadata={"order": "4711"})

        [call] = await receiver.called()

        told_at = datetime.now(UTC)
        done = await queue.get(job.id)
        assert done.completed_at is not None
        event = call.event()
        assert event["type"] == "video.completed"
        assert event["data"] == json.loads(json.dumps(job_document(done)))
        assert told_at - done.completed_at < timedelta(seconds=1.5)  # not with the next look
        assert (await delivered(settings)).attempts == 1
        [line] = worker.said("webhook delivered")
        assert (line["jobId"], line["webhookId"]) == (str(job.id), call.id)


async def test_who_asked_is_told_why_there_is_none(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
) -> None:
    simulator.sora.script(Rule(deed="poll", outcome="moderation"))
    async with receiving() as receiver:
        await start_worker(settings)
        failing = await queue.enqueue(SORA, webhook_url=receiver.url)
        await receiver.called(1)
        cancelled = await queue.enqueue(
            SORA, webhook_url=receiver.url, run_at=datetime.now(UTC) + timedelta(hours=1)
        )
        await queue.cancel(cancelled.id)
        calls = await receiver.called(2)

    events = [call.event() for call in calls]
    assert [event["type"] for event in events] == ["video.failed", "video.cancelled"]
    assert [event["data"]["id"] for event in events] == [str(failing.id), str(cancelled.id)]
    assert events[0]["data"]["error_code"] == "content_blocked"
    assert events[1]["data"]["actual_cost_micros"] == 0


async def test_a_worker_killed_between_the_sending_and_its_note_has_it_sent_again(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker
) -> None:
    async with receiving() as receiver:
        worker = await start_worker(settings)

        async def kill(_: aiohttp.web.Request) -> aiohttp.web.Response:
            worker.signal(signal.SIGKILL)
            return aiohttp.web.Response()

        receiver.answer = kill
        await queue.enqueue(SORA, webhook_url=receiver.url)
        await receiver.called(1)
        await worker.stop(signal.SIGKILL)
        receiver.answer = None
        left = await newest(settings)
        await a_minute_later(settings)

        await start_worker(settings)
        first, second = await receiver.called(2)

        assert (left.state, left.attempts) == ("pending", 1)
        assert (first.id, first.body) == (second.id, second.body)
        done = await delivered(settings)
        assert (done.state, done.attempts) == ("delivered", 2)


async def test_a_worker_that_stops_leaves_its_webhooks_to_others(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker
) -> None:
    async with receiving() as receiver:

        async def wait(_: aiohttp.web.Request) -> aiohttp.web.Response:
            await asyncio.Event().wait()
            raise AssertionError

        receiver.answer = wait
        worker = await start_worker(settings)
        await queue.enqueue(SORA, webhook_url=receiver.url)
        await receiver.called(1)

        assert await worker.stop() == 0

        receiver.answer = None
        await start_worker(settings)
        first, second = await receiver.called(2)
        assert first.id == second.id
        assert (await delivered(settings)).attempts == 1


async def test_without_a_secret_the_webhook_waits_until_there_is_one(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker
) -> None:
    async with receiving() as receiver:
        worker = await start_worker(settings.model_copy(update={"webhook_secrets": None}))
        job = await queue.enqueue(SORA, webhook_url=receiver.url)
        await queue.wait(job.id, timeout=20)
        waiting = await when(settings, lambda found: found.last_error is not None)
        await worker.stop()

        assert receiver.calls == []
        assert "VIDGEN_WEBHOOK_SECRETS is not set" in (waiting.last_error or "")
        assert worker.said("webhooks wait")

        await start_worker(settings)
        [call] = await receiver.called()
        assert call.event()["data"]["id"] == str(job.id)


async def a_minute_later(settings: Settings) -> None:
    """What a dead worker took is due again."""
    async with connect(settings.database_url) as connection:
        await connection.execute("UPDATE webhook_deliveries SET next_at = now()")


# --- in ---


@pytest.mark.parametrize("source", ["openai", "gemini"])
async def test_a_provider_that_calls_need_not_be_asked_for_a_minute(
    settings: Settings,
    queue: VideoQueue,
    start_worker: StartWorker,
    simulator: SimulatorServer,
    unused_tcp_port: int,
    source: str,
) -> None:
    provider = simulator.sora if source == "openai" else simulator.veo
    provider.generation_s = 1
    settings = settings.model_copy(
        update={
            "poll_interval_s": 60,
            "http_port": unused_tcp_port,
            "openai_webhook_secret": SecretStr(SECRET),
            "gemini_webhook_secret": SecretStr(SECRET),
        }
    )
    worker = await start_worker(settings)
    job = await queue.enqueue(SORA if source == "openai" else VEO)
    async with asyncio.timeout(PATIENCE_S):
        async for event in queue.events(job.id):
            if event.type is EventType.SUBMITTED:
                break
        [generation] = provider.generations.values()
        while True:
            if generation.is_due():
                break
            await asyncio.sleep(0.02)
    operation = (await queue.get(job.id)).operation
    assert operation is not None

    kind = "video.completed" if source == "openai" else "video.generated"
    called_at = asyncio.get_running_loop().time()
    status = await call(settings, source, {"type": kind, "data": {"id": operation.id}})
    done = await queue.wait(job.id, timeout=20)
    took_s = asyncio.get_running_loop().time() - called_at

    assert status == 204
    assert (done.status, done.attempt, len(provider.bill)) == (JobStatus.COMPLETED, 1, 1)
    assert len(provider.of("poll")) == 1
    assert took_s < 3
    assert worker.said("provider called")[0]["heard"] is True


async def call(settings: Settings, source: str, event: dict[str, object]) -> int:
    """Post *event* as its provider signs it; the status of the answer."""
    body, at = json.dumps(event), datetime.now(UTC)
    headers = {
        "webhook-id": "wh_1",
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("wh_1", at, body),
    }
    url = f"http://127.0.0.1:{settings.http_port}/api/webhooks/{source}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, data=body, headers=headers) as response,
    ):
        return response.status
