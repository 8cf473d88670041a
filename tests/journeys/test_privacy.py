"""What customers say and who they are, through a real worker: nowhere in Redis, sealed at rest."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from tests.journeys.conftest import StartWorker
from tests.journeys.test_keys import _all_of_postgresql, _shapes, added, api
from tests.journeys.test_observed import free_port
from tests.receiver import SECRET, receiving
from vidgen import InputImage, JobStatus, VideoJob, VideoQueue, VideoRequest
from vidgen.job import EventType
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.testing.provider_wire import an_image

TIMEOUT_S = 40
WORDS = "planted-prompt-x7Qp2mVb9"
NEGATIVE = "planted-negative-x7Qp2mVb9"
KEY = "sk-planted-key-x7Qp2mVb9@alice"
USER = "planted-user-x7Qp2mVb9"
SCENE = "planted-scene-x7Qp2mVb9"
METADATA = "planted-metadata-x7Qp2mVb9"
ORDER = "planted-order-x7Qp2mVb9"
RECEIVER = "planted-receiver-x7Qp2mVb9"
PICTURE = an_image().data
SECRETS = (WORDS, NEGATIVE, KEY, USER, SCENE, METADATA, ORDER, RECEIVER, SECRET)


@pytest.fixture
def settings(settings: Settings, simulator: SimulatorServer) -> Settings:
    clip = render("tram", seconds=1, width=320, height=180, audio=False)
    for provider in simulator.simulators.values():
        provider.generation_s, provider.clip = 0.3, clip
    return settings.model_copy(
        update={
            "encryption_key": SecretStr(base64.b64encode(bytes(range(32))).decode()),
            "encrypt_prompts": True,
            "settle_s": 0.5,
            "http_port": free_port(),
            "webhook_secrets": SecretStr(SECRET),
        }
    )


class Overheard:
    """Everything that was said to a Redis, and everything it ever had when somebody looked."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.had: set[str] = set()

    async def look(self, redis: Redis) -> None:
        """Read every key of every database by its type."""
        async for name in redis.scan_iter():
            self.had.add(repr(name) + repr(await _value(redis, name)))


_READ = {
    b"string": ("GET",),
    b"list": ("LRANGE", 0, -1),
    b"hash": ("HGETALL",),
    b"set": ("SMEMBERS",),
    b"zset": ("ZRANGE", 0, -1, "WITHSCORES"),
    b"stream": ("XRANGE", "-", "+"),
}


async def _value(redis: Redis, name: bytes) -> object:
    kind = await redis.type(name)
    if kind == b"none":  # it expired meanwhile
        return None
    command, *arguments = _READ[kind]
    answer: object = await redis.execute_command(command, name, *arguments)  # type: ignore[no-untyped-call]  # redis 5
    return answer


@asynccontextmanager
async def overhearing(settings: Settings) -> AsyncIterator[Overheard]:
    overheard, listening = Overheard(), asyncio.Event()

    async def listen() -> None:
        async with Redis.from_url(settings.redis_url) as redis, redis.monitor() as monitor:
            listening.set()
            async for command in monitor.listen():
                overheard.said.append(str(command["command"]))

    async def look() -> None:
        async with Redis.from_url(settings.redis_url) as redis:
            while True:
                await overheard.look(redis)
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(listen()), group.create_task(look())]
        await listening.wait()
        yield overheard
        for task in tasks:
            task.cancel()


async def test_a_busy_run_leaves_nothing_of_a_customer_in_redis(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.script(
        Rule(deed="submit", outcome="accept-then-disconnect", times=1),
        Rule(deed="poll", outcome="503", times=2),
        Rule(deed="content", outcome="truncated", times=1),
    )
    async with receiving() as receiver, overhearing(settings) as overheard:
        address = f"{receiver.url}?token={RECEIVER}"
        worker = await start_worker(settings)
        async with api(settings) as session:
            await added(session, USER, KEY)
            done = await _busy(queue, simulator, address)
            await receiver.called(len(done))
            told = {"user_id": USER}
            async with session.post("/api/users/forget", json=told) as answer:
                assert answer.status == 200
            async with asyncio.timeout(TIMEOUT_S):
                while (await queue.forget(USER, dry_run=True)).asked_at:  # noqa: ASYNC110  a row tells nobody
                    await asyncio.sleep(0.02)
        await worker.stop()

    assert {job.status for job in done} == {
        JobStatus.COMPLETED,
        JobStatus.FAILED,
        JobStatus.CANCELLED,
    }
    assert any(str(done[0].id) in text for text in overheard.said)
    assert any(str(done[0].id) in text for text in overheard.had)
    for text in (*overheard.said, *overheard.had):
        for secret in SECRETS:
            for shape in _shapes(secret):
                assert shape not in text, f"{secret} is in Redis: {text[:2000]}"
    left = "\n".join(await _all_of_postgresql(settings))
    assert "x7Qp2mVb9" not in left  # all of it was one user's, who is forgotten


async def test_words_and_pictures_are_sealed_in_every_row_of_a_busy_run(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.script(Rule(deed="submit", outcome="accept-then-disconnect", times=1))
    seen: set[str] = set()

    async def look() -> None:
        while True:
            seen.update(await _all_of_postgresql(settings))
            await asyncio.sleep(0.05)

    async with receiving() as receiver, asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        worker = await start_worker(settings.model_copy(update={"log_level": "trace"}))
        done = await _busy(queue, simulator, receiver.url)
        await receiver.called(len(done))
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking
        seen.update(await _all_of_postgresql(settings))
        await worker.stop()

    assert WORDS in done[0].prompt  # who has the key reads it
    assert any(WORDS in str(request.body) for request in simulator.sora.of("submit"))
    log = [str(line) for line in worker.lines] + worker.noise
    for text in (*seen, *log):
        for secret in (WORDS, NEGATIVE):
            for shape in _shapes(secret):
                assert shape not in text, f"{secret} is told: {text[:2000]}"
        assert PICTURE[:64].hex() not in text


async def test_a_worker_says_at_its_start_which_prompts_it_cannot_open(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    job = await queue.enqueue(VideoRequest(provider="sora", prompt=WORDS, seconds=4))
    other = SecretStr(base64.b64encode(bytes(32)).decode())

    worker = await start_worker(settings.model_copy(update={"encryption_key": other}))

    async with asyncio.timeout(TIMEOUT_S):
        async for event in queue.events(job.id):
            if event.type is EventType.PARKED:
                break
    [early] = worker.said("prompts do not open with ENCRYPTION_KEYS")
    assert (early["level"], early["prompts"]) == ("warning", 1)
    assert not simulator.sora.received
    assert (await queue.get(job.id)).prompt == WORDS


async def _busy(queue: VideoQueue, simulator: SimulatorServer, address: str) -> list[VideoJob]:
    """Videos that are made, one with pictures, one that is refused, and one that is cancelled."""
    image = InputImage(role="first_frame", data=PICTURE)
    requests = [
        *(VideoRequest(provider="sora", prompt=f"{WORDS} {number}", seconds=4) for number in "abc"),
        VideoRequest(
            provider="veo", prompt=WORDS, negative_prompt=NEGATIVE, seconds=8, images=(image,)
        ),
        VideoRequest(provider="sora", prompt=f"{WORDS} [[sim:moderation]]", seconds=4),
    ]
    more: dict[str, Any] = {
        "webhook_url": address,
        "user_id": USER,
        "scene_id": SCENE,
        "metadata": {"note": METADATA},
    }
    asked = [
        await queue.enqueue(request, idempotency_key=f"{ORDER}-{number}", **more)
        for number, request in enumerate(requests)
    ]
    endless = VideoRequest(provider="sora", prompt=f"{WORDS} [[sim:never]]", seconds=4)
    dropped = await queue.enqueue(endless, **more)
    await simulator.sora.arrived("submit")
    await queue.cancel(dropped.id, discard=True)
    return [await queue.wait(job.id, timeout=TIMEOUT_S) for job in [*asked, dropped]]
