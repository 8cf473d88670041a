"""What is in the queue, and another try for what failed."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tests.builders import a_worker
from tests.by_hand import Hand
from tests.proxy import Proxy
from tests.server.conftest import Client
from vidgen import VideoRequest, dispatch
from vidgen.errors import GenerationFailedError, GenerationTimeoutError
from vidgen.job import JobStatus, VideoJob
from vidgen.queue import VideoQueue
from vidgen.resources import Resources
from vidgen.server import admin as module
from vidgen.store import workers

REQUEST = VideoRequest(provider="sora", prompt="a tram in the rain")
QUEUE = "/api/admin/queue"
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


async def look(client: Client) -> dict[str, Any]:
    async with client.get(QUEUE) as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        body: dict[str, Any] = await response.json()
        return body


async def retry(client: Client, job_id: UUID | str) -> tuple[int, dict[str, Any]]:
    async with client.post(f"{QUEUE}/retry/{job_id}") as response:
        assert response.content_type == "application/json"
        return response.status, await response.json()


async def a_failed_job(queue: VideoQueue, hand: Hand, **wish: Any) -> VideoJob:
    job = await hand.submit(await hand.claim(await queue.enqueue(REQUEST, **wish)))
    return await hand.fail(job, GenerationTimeoutError("no verdict after 120 looks"))


@pytest.fixture
async def one_worker(resources: Resources) -> None:
    async with resources.database.connection() as connection:
        await workers.heartbeat(connection, a_worker())


# --- the queue ---


@pytest.mark.usefixtures("one_worker")
async def test_an_empty_queue_is_healthy_in_the_documented_shape(admin: Client) -> None:
    body = await look(admin)

    assert TIMESTAMP.fullmatch(body.pop("timestamp"))
    zero = dict.fromkeys(("waiting", "active", "completed", "failed", "delayed", "total"), 0)
    assert body == {
        "stats": zero,
        "health": {"status": "healthy", "issues": []},
        "failedJobs": [],
    }


@pytest.mark.usefixtures("one_worker")
async def test_every_job_is_counted_and_the_failed_ones_are_listed(
    admin: Client, queue: VideoQueue, hand: Hand
) -> None:
    await queue.enqueue(REQUEST)
    await queue.enqueue(REQUEST, run_at=datetime.now(UTC) + timedelta(days=1))
    await hand.claim(await queue.enqueue(REQUEST))
    await hand.carry(await queue.enqueue(REQUEST))
    await queue.cancel((await queue.enqueue(REQUEST)).id)
    failed = await a_failed_job(queue, hand, scene_id="scene-7", user_id="ada")

    body = await look(admin)

    assert body["stats"] == {
        "waiting": 1,
        "active": 1,
        "completed": 1,
        "failed": 1,
        "delayed": 1,
        "total": 6,
    }
    assert body["health"] == {
        "status": "degraded",
        "issues": ["1 jobs failed and can be retried"],
    }
    [listed] = body["failedJobs"]
    for name in ("createdAt", "failedAt"):
        assert TIMESTAMP.fullmatch(listed.pop(name))
    assert listed == {
        "id": str(failed.id),
        "provider": "sora",
        "model": "sora-2",
        "sceneId": "scene-7",
        "userId": "ada",
        "stage": "generating",
        "code": "generation_timeout",
        "failedReason": "no verdict after 120 looks",
        "attemptsMade": 1,
        "operationId": f"of_{failed.id}",
    }
    assert REQUEST.prompt not in str(body)


async def test_a_long_list_of_failures_is_cut_newest_first(
    admin: Client, queue: VideoQueue, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAILED_LISTED", 2)
    failed = [await hand.fail(await queue.enqueue(REQUEST)) for _ in range(3)]

    listed = (await look(admin))["failedJobs"]

    assert [job["id"] for job in listed] == [str(failed[2].id), str(failed[1].id)]
    assert listed[0]["operationId"] is None


async def test_what_is_wrong_is_said(
    admin: Client,
    queue: VideoQueue,
    redis_proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "COMMAND_TIMEOUT_S", 0.3)
    await queue.enqueue(REQUEST, run_at=datetime.now(UTC) - timedelta(hours=1))
    await redis_proxy.cut()

    health = (await look(admin))["health"]

    assert health["status"] == "degraded"
    no_worker, waits, redis = health["issues"]
    assert no_worker == "no worker is alive"
    assert re.fullmatch(r"the oldest job has waited for 36\d\d s", waits)
    assert "Redis" in redis


async def test_without_postgres_there_is_a_sentence(admin: Client, database_proxy: Proxy) -> None:
    await database_proxy.cut()

    async with admin.get(QUEUE) as response:
        body = await response.json()

    assert response.status == 503
    assert (body["success"], body["code"]) == (False, "database_unavailable")
    assert "secret" not in str(body)


# --- retry ---


async def test_a_failed_job_goes_on_with_its_paid_result(
    admin: Client, queue: VideoQueue, hand: Hand
) -> None:
    job = await a_failed_job(queue, hand)

    answer = await retry(admin, job.id)

    assert answer == (
        200,
        {
            "success": True,
            "message": f"job {job.id} goes on with its paid result",
            "jobId": str(job.id),
        },
    )
    assert (await queue.get(job.id)).status is JobStatus.PROCESSING


async def test_a_failed_job_without_a_result_starts_anew_and_says_that_it_costs(
    admin: Client, queue: VideoQueue, hand: Hand
) -> None:
    job = await hand.submit(await hand.claim(await queue.enqueue(REQUEST)))
    await hand.fail(job, GenerationFailedError("no"))

    status, body = await retry(admin, job.id)

    assert (status, body["success"]) == (200, True)
    assert "paid again" in body["message"]
    assert (await queue.get(job.id)).status is JobStatus.PENDING


async def test_a_job_is_retried_once(admin: Client, queue: VideoQueue, hand: Hand) -> None:
    job = await a_failed_job(queue, hand)
    await retry(admin, job.id)

    status, body = await retry(admin, job.id)

    assert status == 409
    assert body == {
        "success": False,
        "code": "invalid_state",
        "message": f"only failed or cancelled jobs can be retried; job {job.id} is processing",
    }


async def test_a_running_job_cannot_be_retried(
    admin: Client, queue: VideoQueue, hand: Hand
) -> None:
    job = await hand.claim(await queue.enqueue(REQUEST))

    status, body = await retry(admin, job.id)

    assert (status, body["code"]) == (409, "invalid_state")
    assert await queue.get(job.id) == job


async def test_an_unknown_job_is_not_found(admin: Client) -> None:
    status, body = await retry(admin, UUID(int=404))

    assert (status, body["success"], body["code"]) == (404, False, "job_not_found")
    assert str(UUID(int=404)) in body["message"]


async def test_what_is_no_id_is_called_so(admin: Client) -> None:
    for job_id in ("7", "not-a-uuid", "%00", "%F0%9F%98%80", "x" * 5000, "%27%20OR%201", "%ff%fe"):
        status, body = await retry(admin, job_id)

        assert (status, body["success"], body["code"]) == (400, False, "invalid_request")
        assert len(body["message"]) < 200


async def test_a_retry_works_while_redis_is_away(
    admin: Client,
    queue: VideoQueue,
    hand: Hand,
    redis_proxy: Proxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = await a_failed_job(queue, hand)
    monkeypatch.setattr(dispatch, "COMMAND_TIMEOUT_S", 0.3)
    await redis_proxy.cut()

    assert (await retry(admin, job.id))[0] == 200
