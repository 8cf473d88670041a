"""Users over HTTP: forgotten by whoever may operate, and the record keeps no name."""

from typing import Any

import pytest

from tests.server.conftest import Client
from tests.server.test_api import problem
from vidgen.job import JobStatus, VideoRequest
from vidgen.queue import VideoQueue
from vidgen.store.erasure import pseudonym

REQUEST = VideoRequest(provider="sora", prompt="a tram in the rain")


async def forgotten(client: Client, **wish: Any) -> dict[str, Any]:
    answer = await client.post("/api/users/forget", json=wish)
    assert answer.status == 200, await answer.text()
    document: dict[str, Any] = await answer.json()
    return document


async def audited(client: Client) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = (await (await client.get("/api/audit")).json())["entries"]
    return entries


async def test_jobs_of_a_user_end_and_what_goes_is_told(admin: Client, queue: VideoQueue) -> None:
    job = await queue.enqueue(REQUEST, user_id="alice")
    other = await queue.enqueue(REQUEST, user_id="bob")

    told = await forgotten(admin, user_id="alice")

    assert (told["jobs"], told["running"], told["paid"], told["dry_run"]) == (1, 1, 0, False)
    assert told["asked_at"]
    assert (await queue.get(job.id)).status is JobStatus.CANCELLED
    assert (await queue.get(other.id)).status is JobStatus.PENDING
    [entry] = await audited(admin)
    assert (entry["action"], entry["target"]) == ("forget", pseudonym("alice"))
    assert "alice" not in str(entry)


async def test_a_dry_run_leaves_no_trace(admin: Client, queue: VideoQueue) -> None:
    job = await queue.enqueue(REQUEST, user_id="alice")

    told = await forgotten(admin, user_id="alice", dry_run=True)

    assert (told["jobs"], told["asked_at"], told["dry_run"]) == (1, None, True)
    assert (await queue.get(job.id)).status is JobStatus.PENDING
    assert await audited(admin) == []


@pytest.mark.parametrize(
    "wish",
    [{}, {"user_id": ""}, {"user_id": "a\0b"}, {"user_id": "x" * 501}, {"user_id": "a", "all": 1}],
)
async def test_what_is_no_user_is_refused(admin: Client, wish: dict[str, Any]) -> None:
    answer = await admin.post("/api/users/forget", json=wish)

    assert await problem(answer) == (400, "invalid_request")
    assert await audited(admin) == []


async def test_a_stranger_forgets_nobody(stranger: Client, queue: VideoQueue) -> None:
    job = await queue.enqueue(REQUEST, user_id="alice")

    answer = await stranger.post("/api/users/forget", json={"user_id": "alice"})

    assert answer.status == 401
    assert (await queue.get(job.id)).status is JobStatus.PENDING
