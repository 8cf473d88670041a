"""The HTTP API: ask, look, steer, and what nobody may do."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from tests.by_hand import Hand
from tests.conftest import BUCKET, S3_ACCESS_KEY, S3_SECRET_KEY
from tests.server.conftest import TOKEN, Client
from vidgen import catalog
from vidgen.errors import VidgenError
from vidgen.job import JobStatus, VideoJob, VideoRequest
from vidgen.queue import VideoQueue
from vidgen.resources import Resources, open_resources
from vidgen.server import openapi
from vidgen.server.app import build, operations
from vidgen.settings import Settings
from vidgen.simulator.s3 import S3Server
from vidgen.store import erasure

READER = "a-token-that-only-reads"
TRAM = {"provider": "sora", "prompt": "a tram in the rain", "seconds": 8, "size": "1280x720"}
SAME_TRAM = VideoRequest(provider="sora", prompt="a tram in the rain", seconds=8, size="1280x720")

JSON = {"Content-Type": "application/json"}


async def asked(client: Client, **changes: Any) -> dict[str, Any]:
    answer = await client.post("/api/jobs", json=TRAM | changes)
    assert answer.status == 201, await answer.text()
    document: dict[str, Any] = await answer.json()
    return document


async def queued(queue: VideoQueue) -> VideoJob:
    return await queue.enqueue(VideoRequest(provider="sora", prompt="a tram in the rain"))


async def problem(answer: ClientResponse) -> tuple[int, str]:
    assert answer.content_type == "application/problem+json"
    document = await answer.json()
    assert document["status"] == answer.status
    return answer.status, document["code"]


async def actions(client: Client) -> list[str]:
    entries = (await (await client.get("/api/audit")).json())["entries"]
    return [entry["action"] for entry in entries]


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


async def test_a_video_is_asked_for_and_looked_at(admin: Client) -> None:
    made = await asked(admin, scene_id="scene-7", metadata={"order": 4711})

    shown = await (await admin.get(f"/api/jobs/{made['id']}")).json()

    assert "prompt" not in made
    assert shown["prompt"] == "a tram in the rain"
    assert shown["parameters"]["size"] == "1280x720"
    assert [event["type"] for event in shown["events"]] == ["created"]
    assert shown["queue_position"] == 1
    assert shown["retry"] is None
    assert shown["eta"]["basis"] == "default"
    assert datetime.fromisoformat(shown["eta"]["p50"]) > datetime.now(UTC)


async def test_the_same_idempotency_key_gives_the_same_job(admin: Client) -> None:
    first = await asked(admin, idempotency_key="order-1")
    second = await admin.post("/api/jobs", json=TRAM, headers={"Idempotency-Key": "order-1"})
    other = await admin.post("/api/jobs", json=TRAM | {"seconds": 4, "idempotency_key": "order-1"})

    assert (await second.json())["id"] == first["id"]
    assert await problem(other) == (409, "idempotency_conflict")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_request"),
        (b"[]", "invalid_request"),
        (b'"x"', "invalid_request"),
        (b"{}", "invalid_request"),
        (orjson.dumps(TRAM | {"sekonds": 8}), "invalid_request"),
        (orjson.dumps(TRAM | {"seconds": 7}), "invalid_request"),
        (orjson.dumps(TRAM | {"priority": 10}), "invalid_request"),
        (orjson.dumps(TRAM | {"run_at": "2026-12-24T18:00:00"}), "invalid_request"),
        (orjson.dumps(TRAM | {"images": [{"data": "%%%"}]}), "invalid_request"),
        (orjson.dumps(TRAM | {"user_id": "a\0b"}), "invalid_request"),
        (orjson.dumps(TRAM | {"provider": "nobody"}), "unknown_provider"),
    ],
)
async def test_a_wrong_request_is_refused_with_what_was_wanted(
    admin: Client, queue: VideoQueue, body: bytes, code: str
) -> None:
    answer = await admin.post("/api/jobs", data=body, headers=JSON)

    assert await problem(answer) == (400, code)
    assert (await queue.stats()).total == 0


async def test_jobs_are_listed_in_pages_by_filter(admin: Client) -> None:
    made = [await asked(admin, scene_id=f"scene-{number % 2}") for number in range(5)]

    first = await (await admin.get("/api/jobs?limit=3&scene_id=scene-0")).json()
    page = await (await admin.get("/api/jobs?limit=2")).json()
    rest = await (await admin.get(f"/api/jobs?limit=200&before={page['next']}")).json()

    assert [job["id"] for job in first["jobs"]] == [made[4]["id"], made[2]["id"], made[0]["id"]]
    assert [job["id"] for job in page["jobs"] + rest["jobs"]] == [job["id"] for job in made[::-1]]
    assert rest["next"] is None
    assert rest["jobs"][-1]["queue_position"] == 1
    assert "parameters" not in rest["jobs"][0]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=x", "status=dreaming", "before=7", "limit=201", "user_id=%00"]
)
async def test_a_wrong_filter_is_refused(admin: Client, query: str) -> None:
    assert await problem(await admin.get(f"/api/jobs?{query}")) == (400, "invalid_request")


async def test_a_waiting_job_is_cancelled_and_may_go_on(admin: Client) -> None:
    made = await asked(admin)

    cancelled = await (await admin.post(f"/api/jobs/{made['id']}/cancel", json={})).json()
    shown = await (await admin.get(f"/api/jobs/{made['id']}")).json()
    again = await (await admin.post(f"/api/jobs/{made['id']}/retry")).json()

    assert cancelled["status"] == "cancelled"
    assert shown["retry"]["pays_again"] is True
    assert shown["eta"] is None
    assert again["status"] == "pending"
    assert await actions(admin) == ["retry", "cancel", "enqueue"]
    entries = (await (await admin.get("/api/audit")).json())["entries"]
    assert {entry["target"] for entry in entries} == {made["id"]}
    told = (await (await admin.get(f"/api/jobs/{made['id']}")).json())["events"]
    assert [(event["type"], event["by"]) for event in told] == [
        ("created", None),
        ("cancelled", "admin"),
        ("retried", "admin"),
    ]


async def test_a_video_that_is_not_in_the_bucket_any_more_is_made_again(
    settings: Settings, s3: S3Server, hand: Hand, queue: VideoQueue
) -> None:
    with_bucket = settings.model_copy(
        update={
            "s3_bucket": BUCKET,
            "s3_endpoint_url": s3.url,
            "s3_addressing_style": "path",
            "aws_access_key_id": S3_ACCESS_KEY,
            "aws_secret_access_key": SecretStr(S3_SECRET_KEY),
        }
    )
    lost = await hand.carry(await queue.enqueue(SAME_TRAM))  # nobody stored anything

    async with (
        open_resources(with_bucket) as resources,
        TestClient(
            TestServer(build(resources)), headers={"Authorization": f"Bearer {TOKEN}"}
        ) as admin,
    ):
        bought = await asked(admin, reuse_within_s=3600, idempotency_key="order-1")
        again = await asked(admin, reuse_within_s=3600, idempotency_key="order-1")
        refused = await problem(await admin.get(f"/api/jobs/{lost.id}/result"))

    assert bought["id"] == again["id"] != str(lost.id)
    assert bought["status"] == "pending"
    assert refused == (404, "no_result")


async def test_a_bucket_that_is_away_keeps_no_video_from_being_used_again(
    admin: Client, hand: Hand, queue: VideoQueue
) -> None:
    made = await hand.carry(await queue.enqueue(SAME_TRAM))

    again = await asked(admin, reuse_within_s=3600)

    assert again["id"] == str(made.id)


async def test_what_does_not_exist_is_not_found(admin: Client) -> None:
    nobody = "/api/jobs/00000000-0000-7000-8000-000000000000"

    for path in ("", "/events", "/result"):
        assert await problem(await admin.get(nobody + path)) == (404, "job_not_found")
    assert await problem(await admin.post(f"{nobody}/cancel")) == (404, "job_not_found")
    assert await problem(await admin.get("/api/jobs/x")) == (400, "invalid_request")


async def test_a_job_without_a_video_has_no_result(admin: Client) -> None:
    made = await asked(admin)

    answer = await admin.get(f"/api/jobs/{made['id']}/result", allow_redirects=False)

    assert await problem(answer) == (404, "no_result")


async def test_a_stored_video_is_handed_out_by_a_signed_address(
    admin: Client, stranger: Client, hand: Hand, queue: VideoQueue
) -> None:
    job = await hand.carry(await queued(queue))

    assert (await stranger.get(f"/api/jobs/{job.id}/result")).status == 401

    answer = await admin.get(f"/api/jobs/{job.id}/result?download=1", allow_redirects=False)

    assert answer.status == 302
    assert str(job.storage_key) in answer.headers["Location"]
    assert "X-Amz-Signature" in answer.headers["Location"]
    assert "X-Amz-Expires=900&" in answer.headers["Location"]
    assert str(job.id) in answer.headers["Location"]
    assert "X-Amz" not in await (await admin.get(f"/api/jobs/{job.id}")).text()


async def test_an_archived_video_is_no_longer_handed_out(
    admin: Client, hand: Hand, queue: VideoQueue, resources: Resources
) -> None:
    job = await hand.carry(await queued(queue))
    async with resources.database.connection() as connection:
        await erasure.archive(connection, [job.id])

    answer = await admin.get(f"/api/jobs/{job.id}/result", allow_redirects=False)
    shown = await (await admin.get(f"/api/jobs/{job.id}")).json()

    assert await problem(answer) == (404, "no_result")
    assert (shown["status"], shown["prompt"]) == ("completed", "")
    assert shown["archived_at"]


async def test_pausing_holds_new_jobs_back_until_resumed(
    admin: Client, hand: Hand, queue: VideoQueue
) -> None:
    paused = await (await admin.post("/api/queue/pause", json={"provider": "sora"})).json()
    made = await asked(admin)

    with pytest.raises(VidgenError):
        await hand.claim(await queue.get(UUID(made["id"])))
    resumed = await (await admin.post("/api/queue/resume", json={"provider": "sora"})).json()
    await hand.claim(await queue.get(UUID(made["id"])))

    assert [pause["provider"] for pause in paused["paused"]] == ["sora"]
    assert paused["paused"][0]["by"] == "admin"
    assert resumed["paused"] == []


async def test_draining_pauses_everything(admin: Client) -> None:
    drained = await (await admin.post("/api/queue/drain")).json()

    assert drained["draining"] is True
    assert (await problem(await admin.post("/api/queue/pause", json={"provider": "x"})))[0] == 400


async def test_failed_jobs_are_grouped_and_retried_after_a_dry_run(
    admin: Client, hand: Hand, queue: VideoQueue
) -> None:
    job = await hand.fail(await queued(queue))

    groups = await (await admin.get("/api/failed")).json()
    dry = await (await admin.post("/api/failed/retry", json={"dry_run": True})).json()
    unchanged = await queue.get(job.id)
    done = await (await admin.post("/api/failed/retry", json={"code": job.error_code})).json()

    assert groups["total"] == 1
    assert groups["codes"][0]["code"] == job.error_code
    assert dry["dry_run"] is True
    assert unchanged.status is JobStatus.FAILED
    assert [plan["job_id"] for plan in done["jobs"]] == [str(job.id)]
    assert (await queue.get(job.id)).status is not JobStatus.FAILED


async def test_workers_providers_and_statistics_are_told(
    admin: Client, hand: Hand, queue: VideoQueue
) -> None:
    await hand.carry(await queued(queue))

    workers = (await (await admin.get("/api/workers")).json())["workers"]
    providers = (await (await admin.get("/api/providers")).json())["providers"]
    stats = await (await admin.get("/api/stats?hours=1")).json()

    assert isinstance(workers, list)
    assert [provider["name"] for provider in providers] == [*catalog.names()]
    assert providers[0]["configured"] is True
    assert providers[0]["breaker"] == {"open": False, "failures": 0, "pause_s": 0.0}
    assert providers[1]["models"][0]["available"] is False
    assert stats["completed"] == 1
    assert len(stats["buckets"]) >= 48


async def test_a_role_that_reads_changes_nothing(reader: Client, queue: VideoQueue) -> None:
    looked = await reader.get("/api/jobs")
    refused = await reader.post("/api/jobs", json=TRAM)

    assert looked.status == 200
    assert await problem(refused) == (403, "forbidden")
    assert (await queue.stats()).total == 0


@pytest.mark.parametrize("token", ["", "x" * 2000, "a-token-for-the-test", "ä"])
async def test_a_wrong_token_opens_nothing(stranger: Client, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}

    assert await problem(await stranger.get("/api/jobs", headers=headers)) == (401, "unauthorized")


async def test_too_many_wrong_tokens_are_answered_no_more(stranger: Client) -> None:
    for _ in range(20):
        await stranger.post("/api/login", json={"token": "wrong"})

    login = await stranger.post("/api/login", json={"token": TOKEN})

    assert await problem(login) == (429, "too_many_failures")
    assert int(login.headers["Retry-After"]) > 0


async def test_a_page_comes_in_with_a_cookie_that_no_script_reads(stranger: Client) -> None:
    before = await (await stranger.get("/api/me")).json()
    login = await stranger.post("/api/login", json={"token": TOKEN})
    cookie = login.cookies["vidgen_session"]
    headers = {"Cookie": f"vidgen_session={cookie.value}"}

    me = await (await stranger.get("/api/me", headers=headers)).json()
    same = {**headers, "Sec-Fetch-Site": "same-origin"}
    made = await stranger.post("/api/jobs", json=TRAM, headers=same)
    cross = {**headers, "Sec-Fetch-Site": "cross-site"}
    refused = await stranger.post("/api/jobs", json=TRAM, headers=cross)
    stranger.session.cookie_jar.clear()
    forged = {"Cookie": f"vidgen_session={cookie.value[:-2]}xx"}

    assert before == {"name": None, "role": None, "login_needed": True}
    assert cookie["httponly"] is True
    assert cookie["samesite"] == "Strict"
    assert TOKEN not in cookie.value
    assert me == {"name": "admin", "role": "operate", "login_needed": False}
    assert made.status == 201
    assert await problem(refused) == (403, "cross_site")
    assert (await stranger.get("/api/jobs", headers=forged)).status == 401


async def test_without_a_token_only_local_names_are_answered(resources: Resources) -> None:
    changed = resources.settings.model_copy(update={"admin_token": None})
    object.__setattr__(resources, "settings", changed)

    async with TestClient(TestServer(build(resources))) as client:
        local = await client.get("/api/jobs")
        foreign = await client.get("/api/jobs", headers={"Host": "evil.test"})
        crossed = await client.post(
            "/api/jobs", json=TRAM, headers={"Sec-Fetch-Site": "cross-site"}
        )

        assert local.status == 200
        assert await problem(foreign) == (403, "forbidden_host")
        assert await problem(crossed) == (403, "cross_site")


async def test_every_answer_tells_browsers_to_be_careful(stranger: Client) -> None:
    for path in ("/livez", "/api/jobs", "/nowhere"):
        headers = (await stranger.get(path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]


async def lines(answer: ClientResponse, ends: str) -> list[str]:
    """The events of a stream up to the one called *ends*."""
    seen: list[str] = []
    async with asyncio.timeout(20):
        async for line in answer.content:
            if line.startswith(b"event: "):
                seen.append(line[7:].decode().strip())
                if seen[-1] == ends:
                    break
    return seen


async def test_a_job_is_followed_to_its_end(admin: Client, hand: Hand, queue: VideoQueue) -> None:
    job = await hand.submit(await hand.claim(await queued(queue)))
    async with admin.get(f"/api/jobs/{job.id}/events") as stream:
        first = await lines(stream, "submitted")
        await hand.complete(await hand.generate(job))
        rest = await lines(stream, "completed")
        async with asyncio.timeout(5):
            assert b"event" not in await stream.content.read()  # it ends

    history = [event.type.value for event in await queue.history(job.id)]
    assert first + rest == history


async def test_a_stream_goes_on_behind_the_last_event_seen(
    admin: Client, hand: Hand, queue: VideoQueue
) -> None:
    job = await hand.carry(await queued(queue))
    history = await queue.history(job.id)
    middle, last = history[2], history[-1]

    resumed = await admin.get(
        f"/api/jobs/{job.id}/events", headers={"Last-Event-ID": str(middle.seq)}
    )
    over = await admin.get(f"/api/jobs/{job.id}/events?after={last.seq}")
    wrong = await admin.get(f"/api/jobs/{job.id}/events", headers={"Last-Event-ID": "x"})

    assert await lines(resumed, "completed") == [event.type.value for event in history[3:]]
    assert over.status == 204
    assert wrong.status == 400


async def test_all_jobs_are_followed_by_one_stream(
    admin: Client, hand: Hand, queue: VideoQueue
) -> None:
    async with admin.get("/api/events") as stream:
        assert await stream.content.readline() == b"retry: 2000\n"
        jobs = [await hand.submit(await hand.claim(await queued(queue))) for _ in range(3)]
        seen: list[str] = []
        for _ in jobs:
            seen += await lines(stream, "submitted")

    assert seen.count("created") == 3


async def test_the_stream_of_all_jobs_goes_on_behind_the_last_event_seen(
    admin: Client, hand: Hand, queue: VideoQueue
) -> None:
    job = await hand.carry(await queued(queue))
    first, *rest = await queue.history(job.id)

    async with admin.get("/api/events", headers={"Last-Event-ID": str(first.seq)}) as stream:
        seen = await lines(stream, "completed")

    assert seen == [event.type.value for event in rest]


async def test_progress_is_told_live(admin: Client, hand: Hand, queue: VideoQueue) -> None:
    job = await hand.submit(await hand.claim(await queued(queue)))
    async with admin.get(f"/api/jobs/{job.id}/events") as stream:
        await lines(stream, "submitted")
        telling = asyncio.get_running_loop()
        deadline = telling.time() + 15
        seen: list[str] = []
        async with asyncio.TaskGroup() as group:
            reading = group.create_task(lines(stream, "progressed"))
            while not reading.done() and telling.time() < deadline:
                await hand.progress(job, 40)
                await asyncio.sleep(0.05)
            seen = await reading

    assert seen[-1] == "progressed"


async def test_the_description_names_every_route_that_is_served(admin: Client) -> None:
    document = await (await admin.get("/openapi.json")).json()

    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {one.path for one in operations()}
    assert document == orjson.loads(orjson.dumps(openapi.document(operations())))
