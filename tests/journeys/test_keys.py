"""Keys that users bring, through a real worker: whose goes where, and that none is ever told."""

import asyncio
import base64
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg
import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from tests.journeys.conftest import StartWorker
from tests.journeys.test_observed import TOKEN, collecting, free_port
from vidgen import JobStatus, VideoJob, VideoQueue, VideoRequest
from vidgen import keys as bring
from vidgen.job import Stage
from vidgen.keys import AddedKey
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.store import keys as store
from vidgen.store.pool import Database
from vidgen.vault import Vault, key_id

TIMEOUT_S = 40
OLD, NEW = (bytes([number]) * 32 for number in (1, 2))
# What follows the @ is the account at the simulator: one does not see another's videos.
PLANTED = "sk-planted-x7Qp2mVb9@alice"
REFUSED = "wrong-planted-x7Qp2mVb9@bob"
GEMINI = "AIza-planted-x7Qp2mVb9"
SECRET_PART = "planted-x7Qp2mVb9"


def ring(*keys: bytes) -> SecretStr:
    return SecretStr(",".join(base64.b64encode(key).decode() for key in keys))


@pytest.fixture
def settings(settings: Settings, simulator: SimulatorServer) -> Settings:
    clip = render("tram", seconds=1, width=320, height=180, audio=False)
    for provider in simulator.simulators.values():
        provider.generation_s, provider.clip = 0.3, clip
    return settings.model_copy(
        update={"encryption_keys": ring(OLD), "settle_s": 0.5, "http_port": free_port()}
    )


@asynccontextmanager
async def api(settings: Settings) -> AsyncIterator[aiohttp.ClientSession]:
    """The worker's own HTTP server."""
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{settings.http_port}", headers={"Authorization": f"Bearer {TOKEN}"}
    ) as session:
        yield session


async def added(
    session: aiohttp.ClientSession, user_id: str, key: str, provider: str = "sora"
) -> dict[str, Any]:
    wish = {"user_id": user_id, "provider": provider, "key": key}
    async with session.post("/api/keys", json=wish) as answer:
        assert answer.status == 201, await answer.text()
        document: dict[str, Any] = await answer.json()
        return document


async def stored(database: Database, vault: Vault, user_id: str, key: str) -> AddedKey:
    async with database.connection() as connection:
        return await bring.add(connection, vault, user_id, bring.check("sora", key))


def tram(prompt: str = "a tram in the rain", provider: str = "sora") -> VideoRequest:
    return VideoRequest(provider=provider, prompt=prompt, seconds=4)


async def test_two_users_with_keys_of_their_own_each_pay_for_their_own_video(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    await start_worker(settings)
    async with api(settings) as session:
        await added(session, "alice", "sk-alice-0123@alice")
        await added(session, "bob", "sk-bob-0123@bob")

        asked = [
            await queue.enqueue(tram(f"a tram of {user}"), user_id=user)
            for user in ("alice", "bob", "carol")
        ]
        done = [await queue.wait(job.id, timeout=TIMEOUT_S) for job in asked]

    assert {job.status for job in done} == {JobStatus.COMPLETED}
    paid: dict[str, str] = {}
    for request in simulator.sora.of("submit"):
        assert isinstance(request.body, dict)
        paid[str(request.body["prompt"])] = request.headers["authorization"]
    assert paid == {
        "a tram of alice": "Bearer sk-alice-0123@alice",
        "a tram of bob": "Bearer sk-bob-0123@bob",
        "a tram of carol": "Bearer sk-simulated",
    }
    for job in done:
        assert job.operation is not None
        seen = {
            request.headers["authorization"]
            for request in simulator.sora.received
            if job.operation.id in request.path
        }
        assert seen == {paid[job.prompt]}


async def test_a_worker_killed_before_its_receipt_is_followed_with_the_key_of_the_intent(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.script(Rule(deed="submit", outcome="accept-then-hang", times=1))
    worker = await start_worker(settings)
    async with api(settings) as session:
        await added(session, "alice", "sk-alice-one@alice")
        job = await queue.enqueue(tram(), user_id="alice")
        async with asyncio.timeout(TIMEOUT_S):
            while not simulator.sora.bill:  # noqa: ASYNC110  a bill rings no bell
                await asyncio.sleep(0.01)
        await added(session, "alice", "sk-alice-two@alice2")
    worker.signal(signal.SIGKILL)

    await start_worker(settings.model_copy(update={"http_port": 0}))
    done = await queue.wait(job.id, timeout=TIMEOUT_S)

    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)
    assert {request.headers["authorization"] for request in simulator.sora.of("list")} == {
        "Bearer sk-alice-one@alice"
    }


async def test_a_worker_with_the_wrong_ring_parks_and_one_with_the_right_ring_goes_on(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    async with Database(settings.database_url) as database:
        await stored(database, Vault([OLD]), "alice", "sk-alice-0123@alice")
    wrong = settings.model_copy(update={"encryption_keys": ring(NEW)})
    worker = await start_worker(wrong)
    job = await queue.enqueue(tram(), user_id="alice")
    async with asyncio.timeout(TIMEOUT_S), api(wrong) as session:
        async for event in queue.events(job.id):
            if event.type == "parked":
                break
        async with session.get("/api/queue") as answer:
            issues = (await answer.json())["issues"]
    parked = await queue.get(job.id)
    await worker.stop()

    async with Database(settings.database_url) as database, database.connection() as connection:
        await connection.execute("UPDATE video_jobs SET due_at = now()")  # five minutes later
    async with Redis.from_url(settings.redis_url) as redis:
        await redis.flushall()  # the dispatch there still waits for them
    await start_worker(settings.model_copy(update={"http_port": 0}))
    done = await queue.wait(job.id, timeout=TIMEOUT_S)

    assert (parked.status, parked.stage, parked.attempt) == (JobStatus.PENDING, Stage.QUEUED, 0)
    assert parked.error_code == "key_unreadable"
    assert (
        "1 jobs wait because their provider key or prompt does not open: ENCRYPTION_KEYS" in issues
    )
    [warning] = worker.said("job parked: its provider key or prompt does not open")
    assert (warning["level"], warning["code"], warning["userId"]) == (
        "warning",
        "key_unreadable",
        "alice",
    )
    [early] = worker.said("provider keys do not open with ENCRYPTION_KEYS")
    assert early["keys"] == 1
    assert (done.status, done.attempt) == (JobStatus.COMPLETED, 1)
    assert len(simulator.sora.bill) == 1


async def test_a_rotation_under_load_fails_no_job(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    rotating = settings.model_copy(update={"encryption_keys": ring(NEW, OLD)})
    async with Database(settings.database_url) as database:
        for number in range(250):
            await stored(database, Vault([OLD]), f"user-{number}", f"sk-of-user-{number}")
        await start_worker(rotating)

        jobs = [await queue.enqueue(tram(), user_id=f"user-{number}") for number in range(60)]
        async with asyncio.timeout(TIMEOUT_S), api(rotating) as session:
            await simulator.sora.arrived("poll", 5)
            async with session.post("/api/keys/rotate", json={}) as answer:
                told = await answer.json()
        done = [await queue.wait(job.id, timeout=TIMEOUT_S) for job in jobs]
        async with database.connection() as connection:
            left = await store.sealed_under(connection)

    assert (told["resealed"], told["left"], told["next"]) == (250, 0, None)
    assert [(each.key_id, each.keys) for each in left] == [(key_id(NEW), 250)]
    assert {job.status for job in done} == {JobStatus.COMPLETED}
    assert {request.headers["authorization"] for request in simulator.sora.of("submit")} == {
        f"Bearer sk-of-user-{number}" for number in range(60)
    }


async def test_a_planted_key_is_found_nowhere(
    settings: Settings, queue: VideoQueue, start_worker: StartWorker, simulator: SimulatorServer
) -> None:
    simulator.sora.script(
        Rule(deed="poll", outcome="503", times=2),
        Rule(deed="content", outcome="truncated", times=1),
    )
    answers: list[str] = []
    async with collecting() as collector:
        told = settings.model_copy(update={"otlp_endpoint": collector.url, "log_level": "trace"})
        worker = await start_worker(told)
        async with api(settings) as session:
            session.headers["X-Planted"] = SECRET_PART
            for user, key, provider in (
                ("alice", PLANTED, "sora"),
                ("bob", REFUSED, "sora"),
                ("alice", GEMINI, "veo"),
            ):
                answers.append(str(await added(session, user, key, provider)))
            done = await _busy(queue, settings)
            answers += [str(line) for line in await _all_answers(session, done)]
            await _remove_all(session, answers)
        redis = await _all_of_redis(settings)
        await worker.stop()
        spans = [str(span) for span in collector.spans.values()]

    assert [(job.status, job.error_code) for job in done] == [
        (JobStatus.COMPLETED, None),
        (JobStatus.COMPLETED, None),
        (JobStatus.FAILED, "provider_auth"),
        (JobStatus.FAILED, "internal_error"),
    ]
    [defect] = worker.said("stage ended with a defect")
    assert "Traceback" in defect["error"]["traceback"]
    sent = {request.headers.get("authorization") for request in simulator.sora.received}
    assert f"Bearer {PLANTED}" in sent  # it did go where it belongs
    places = {
        "log": [str(line) for line in worker.lines] + worker.noise,
        "redis": redis,
        "postgresql": await _all_of_postgresql(settings),
        "answers": answers,
        "spans": spans,
    }
    assert all(places.values()), "a place that is empty proves nothing"
    for place, texts in places.items():
        for text in texts:
            for shape in _shapes(SECRET_PART):
                assert shape not in text, f"the key is in {place}: {text[:2000]}"


async def _busy(queue: VideoQueue, settings: Settings) -> list[VideoJob]:
    """Two videos, a refused key, and a defect of ours in the middle of a stage."""
    asked = [
        await queue.enqueue(tram(), user_id="alice", metadata={"order": 1}),
        await queue.enqueue(tram(provider="veo"), user_id="alice"),
        await queue.enqueue(tram(), user_id="bob"),
    ]
    connection = await asyncpg.connect(settings.database_url)
    try:
        async with connection.transaction():
            broken = await queue.enqueue(tram(), user_id="alice", connection=connection)
            await connection.execute(
                """UPDATE video_jobs SET parameters = '{"images": 7}' WHERE id = $1""", broken.id
            )
    finally:
        await connection.close()
    return [await queue.wait(job.id, timeout=TIMEOUT_S) for job in [*asked, broken]]


async def _all_answers(session: aiohttp.ClientSession, done: list[VideoJob]) -> list[str]:
    paths = [
        *("/api/keys", "/api/keys/rotation", "/api/jobs", "/api/queue", "/api/admin/queue"),
        *("/api/audit", "/api/providers", "/api/failed", "/api/stats", "/api/workers"),
        *("/metrics", "/openapi.json", "/api/health/worker"),
        *(f"/api/jobs/{job.id}" for job in done),
        *(f"/api/jobs/{job.id}/events" for job in done),
    ]
    found: list[str] = []
    for path in paths:
        async with session.get(path) as answer:
            assert answer.status == 200, path
            found.append(f"{answer.headers}{await answer.text()}")
    wrong = {"user_id": "alice", "provider": "sora", "key": f"{PLANTED} {PLANTED}"}
    for body in (wrong, wrong | {"key": [PLANTED]}):
        async with session.post("/api/keys", json=body) as answer:
            assert answer.status == 400
            found.append(await answer.text())
    return found


async def _remove_all(session: aiohttp.ClientSession, answers: list[str]) -> None:
    async with session.get("/api/keys") as answer:
        listed = (await answer.json())["keys"]
    for key in listed:
        async with session.post(f"/api/keys/{key['id']}/remove") as answer:
            assert answer.status == 200
            answers.append(await answer.text())


async def _all_of_redis(settings: Settings) -> list[str]:
    async with Redis.from_url(settings.redis_url) as redis:
        await redis.config_set("rdbcompression", "no")  # or a dump would hide what is in it
        try:
            return [repr(name) + repr(await redis.dump(name)) async for name in redis.scan_iter()]
        finally:
            await redis.config_set("rdbcompression", "yes")


async def _all_of_postgresql(settings: Settings) -> list[str]:
    connection = await asyncpg.connect(settings.database_url)
    try:
        tables = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        return [
            row["text"]
            for table in tables
            for row in await connection.fetch(
                f"SELECT one::text AS text FROM {table['tablename']} AS one"  # noqa: S608
            )
        ]
    finally:
        await connection.close()


def _shapes(secret: str) -> list[str]:
    """As text, as bytes in hexadecimal, and at each place within base64."""
    shapes = [secret, secret.encode().hex()]
    for shift in range(3):
        coded = base64.b64encode(b"x" * shift + secret.encode()).decode()
        shapes.append(coded[4:-4])
    return shapes
