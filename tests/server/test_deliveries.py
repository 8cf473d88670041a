"""Webhooks over HTTP: how they stand, who sees where they go, and another try for them."""

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pytest
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from tests.by_hand import Hand
from tests.server.conftest import Client
from vidgen.errors import GenerationTimeoutError
from vidgen.job import VideoJob, VideoRequest
from vidgen.queue import VideoQueue
from vidgen.resources import Resources
from vidgen.server.app import build
from vidgen.store import deliveries
from vidgen.store.deliveries import Delivery, DeliveryState, Outcome

READER = "a-token-that-only-reads"
URL = "https://me.test/hook?key=a-secret"
REQUEST = VideoRequest(provider="sora", prompt="a tram in the rain")
REFUSED = Outcome(state=DeliveryState.FAILED, status=500, error="The receiver answered 500.")
DELIVERED = Outcome(state=DeliveryState.DELIVERED, status=204, error=None)


@pytest.fixture
async def reader(resources: Resources) -> AsyncIterator[Client]:
    """Somebody who may look only."""
    changed = resources.settings.model_copy(
        update={"admin_tokens": SecretStr(f"grafana:read:{READER}")}
    )
    object.__setattr__(resources, "settings", changed)
    headers = {"Authorization": f"Bearer {READER}"}
    async with TestClient(TestServer(build(resources)), headers=headers) as client:
        yield client


async def ended(queue: VideoQueue, hand: Hand) -> VideoJob:
    """A job whose webhook is due."""
    return await hand.carry(await queue.enqueue(REQUEST, webhook_url=URL))


async def tried(resources: Resources, outcome: Outcome) -> list[Delivery]:
    """Every delivery that is due, after a try that came out so."""
    async with resources.database.connection() as connection:
        claimed = await deliveries.claim(
            connection, limit=100, per_host=100, sending={}, lease_s=60
        )
        for delivery in claimed:
            assert await deliveries.settle(connection, delivery, outcome)
    return claimed


async def listed(client: Client, query: str = "") -> list[dict[str, Any]]:
    answer = await client.get(f"/api/deliveries{query}")
    assert answer.status == 200, await answer.text()
    found: list[dict[str, Any]] = (await answer.json())["deliveries"]
    return found


async def code(client: Client, path: str, method: str = "GET") -> tuple[int, str]:
    answer = await client.request(method, path)
    return answer.status, (await answer.json())["code"]


async def test_a_job_shows_the_webhooks_it_has(
    admin: Client, queue: VideoQueue, hand: Hand, resources: Resources
) -> None:
    job = await ended(queue, hand)
    await tried(resources, REFUSED)

    [delivery] = (await (await admin.get(f"/api/jobs/{job.id}")).json())["deliveries"]

    assert (delivery["type"], delivery["state"]) == ("video.completed", "failed")
    assert (delivery["attempts"], delivery["next_at"]) == (1, None)
    assert (delivery["last_status"], delivery["last_error"]) == (500, "The receiver answered 500.")
    assert "snapshot" not in delivery
    assert await (await admin.get(f"/api/deliveries/{delivery['id']}")).json() == delivery


async def test_deliveries_are_listed_in_pages_by_job_and_state(
    admin: Client, queue: VideoQueue, hand: Hand, resources: Resources
) -> None:
    first = await ended(queue, hand)
    await tried(resources, DELIVERED)
    others = [await ended(queue, hand) for _ in range(2)]

    page = await (await admin.get("/api/deliveries?limit=2")).json()
    rest = await (await admin.get(f"/api/deliveries?before={page['next']}")).json()

    assert [one["job_id"] for one in page["deliveries"]] == [str(job.id) for job in others[::-1]]
    assert [one["job_id"] for one in rest["deliveries"]] == [str(first.id)]
    assert rest["next"] is None
    assert [one["job_id"] for one in await listed(admin, "?state=delivered")] == [str(first.id)]
    assert len(await listed(admin, f"?job_id={others[0].id}&state=pending")) == 1
    assert await listed(admin, f"?job_id={uuid4()}") == []


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "state=lost", "before=7", "job_id=x"])
async def test_a_wrong_filter_is_refused(admin: Client, query: str) -> None:
    assert await code(admin, f"/api/deliveries?{query}") == (400, "invalid_request")


async def test_one_that_failed_is_sent_again_under_its_id_by_whoever_is_on_record(
    admin: Client, queue: VideoQueue, hand: Hand, resources: Resources
) -> None:
    await ended(queue, hand)
    [failed] = await tried(resources, REFUSED)

    replayed = await (await admin.post(f"/api/deliveries/{failed.id}/replay")).json()
    [again] = await tried(resources, DELIVERED)

    assert (replayed["state"], replayed["attempts"]) == ("pending", 0)
    assert again.id == failed.id == UUID(replayed["id"])
    [entry] = (await (await admin.get("/api/audit")).json())["entries"]
    assert (entry["action"], entry["target"]) == ("replay", str(failed.id))
    assert (entry["who"], entry["role"]) == ("admin", "operate")


async def test_who_only_reads_sees_no_secret_of_a_receiver_and_sends_nothing(
    reader: Client, admin: Client, queue: VideoQueue, hand: Hand
) -> None:
    job = await ended(queue, hand)
    [seen] = await listed(reader)

    shown = await (await reader.get(f"/api/jobs/{job.id}")).json()
    whole = await (await admin.get(f"/api/jobs/{job.id}")).json()

    assert seen["url"] == shown["webhook_url"] == "https://me.test/hook"
    assert shown["deliveries"][0]["url"] == seen["url"]
    assert whole["webhook_url"] == whole["deliveries"][0]["url"] == URL
    assert "a-secret" not in repr(seen) + repr(shown)
    assert await code(reader, f"/api/deliveries/{seen['id']}/replay", "POST") == (403, "forbidden")


async def test_what_does_not_exist_is_not_found(admin: Client) -> None:
    nothing = f"/api/deliveries/{uuid4()}"

    assert await code(admin, nothing) == (404, "delivery_not_found")
    assert await code(admin, f"{nothing}/replay", "POST") == (404, "delivery_not_found")
    assert await code(admin, "/api/deliveries/7") == (400, "invalid_request")


async def test_services_list_and_replay_their_webhooks(
    queue: VideoQueue, hand: Hand, resources: Resources
) -> None:
    job = await hand.fail(
        await queue.enqueue(REQUEST, webhook_url=URL), GenerationTimeoutError("no verdict")
    )
    await tried(resources, REFUSED)

    [failed] = await queue.deliveries(job.id, state=DeliveryState.FAILED)
    replayed = await queue.replay(failed.id)

    assert replayed.state is DeliveryState.PENDING
    assert await queue.delivery(failed.id) == replayed
    assert await queue.deliveries() == [replayed]
