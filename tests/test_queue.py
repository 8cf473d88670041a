"""The door for services: what it lets in, what it refuses, and a Redis that is away."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import pytest
from loguru import logger
from pydantic import SecretStr
from redis.asyncio import Redis

from tests.builders import a_video
from tests.by_hand import Hand
from tests.proxy import Proxy, proxy_of
from vidgen import InputImage, VideoRequest, dispatch, lifecycle, live
from vidgen.dispatch import open_redis
from vidgen.errors import (
    DatabaseError,
    DatabaseRefusedError,
    GenerationFailedError,
    GenerationTimeoutError,
    IdempotencyConflictError,
    InvalidRequestError,
    InvalidStateError,
    JobNotFoundError,
    ModelRetiredError,
    SubmitUnknownError,
    UnknownModelError,
    UnknownProviderError,
    VidgenError,
)
from vidgen.job import EventType, JobStatus, Stage
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.store import inputs
from vidgen.store.jobs import Counts
from vidgen.store.pool import Connection, connect

REQUEST = VideoRequest(provider="sora", prompt="a tram in the rain")
NOBODY = UUID(int=404)
QUEUE = "vidgen:queue"
PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
    + (1280).to_bytes(4, "big")
    + (720).to_bytes(4, "big")
    + b"\x08\x02\x00\x00\x00\x00\x00\x00\x00" * 2
    + b"IEND\xaeB`\x82"
)
LONE_SURROGATE = "half \ud83d a face"


@pytest.fixture
async def proxy(redis_url: str) -> AsyncIterator[Proxy]:
    """Redis, as the queue sees it."""
    async with proxy_of(urlsplit(redis_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
def settings(emptied_database_url: str, proxy: Proxy) -> Settings:
    return Settings(
        database_url=emptied_database_url,
        redis_url=f"redis://127.0.0.1:{proxy.port}/0",
        openai_api_key=SecretStr("sk-x"),
        openai_base_url="http://sora.test/v1",
        gemini_api_key=SecretStr("g-x"),
        gemini_base_url="http://veo.test/v1beta",
    )


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[VideoQueue]:
    async with VideoQueue(settings) as queue:
        yield queue


@pytest.fixture
def hand(queue: VideoQueue) -> Hand:
    return Hand(queue)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with open_redis(redis_url) as redis:
        yield redis


@pytest.fixture
async def own(emptied_database_url: str) -> AsyncIterator[Connection]:
    """The caller's own connection."""
    async with connect(emptied_database_url) as connection:
        yield connection


async def dispatched(redis: Redis) -> list[str]:
    return [name.decode() for name in await redis.zrange(QUEUE, 0, -1)]


# --- let in ---


async def test_an_accepted_job_has_every_default_and_a_price(queue: VideoQueue) -> None:
    job = await queue.enqueue(REQUEST)

    assert (job.status, job.stage, job.model) == (JobStatus.PENDING, Stage.QUEUED, "sora-2")
    assert job.parameters["seconds"]
    assert job.parameters["size"]
    assert job.estimated_cost_micros
    assert (job.max_attempts, job.deadline_s, job.priority) == (3, 1800, 0)
    assert job.prompt == REQUEST.prompt
    assert await queue.get(job.id) == job
    assert [event.type for event in await queue.history(job.id)] == [EventType.CREATED]


async def test_everything_that_goes_with_a_request_is_kept(queue: VideoQueue) -> None:
    later = datetime.now(UTC) + timedelta(days=1)

    job = await queue.enqueue(
        REQUEST,
        idempotency_key="key",
        priority=7,
        run_at=later,
        webhook_url="https://me.test/hook?x=1",
        metadata={"order": {"lines": [1, 2.5, None, True, "ü"]}, "literal": r"\u0000"},
        scene_id="scene-7",
        user_id="ada",
        deadline_s=600,
    )

    assert (job.idempotency_key, job.priority, job.due_at) == ("key", 7, later)
    assert job.webhook_url == "https://me.test/hook?x=1"
    assert job.metadata == {
        "order": {"lines": [1, 2.5, None, True, "ü"]},
        "literal": r"\u0000",
    }
    assert (job.scene_id, job.user_id, job.deadline_s) == ("scene-7", "ada", 600)


async def test_an_accepted_job_is_dispatched_with_ids_and_numbers_only(
    queue: VideoQueue, redis: Redis
) -> None:
    job = await queue.enqueue(REQUEST, metadata={"secret": "word"}, user_id="nobody")

    assert await dispatched(redis) == [f"{job.id}.0"]
    for key in await redis.keys("*"):
        kept = await redis.dump(key)
        assert b"tram" not in kept + key
        assert b"word" not in kept + key
        assert b"nobody" not in kept + key  # no word that an id in hexadecimal may hold


async def test_an_image_is_kept_until_the_job_has_ended(queue: VideoQueue, own: Connection) -> None:
    request = VideoRequest(
        provider="sora", prompt="a tram", size="1280x720", images=(InputImage(data=PNG),)
    )

    job = await queue.enqueue(request)

    stored = await inputs.of_job(own, job.id)
    assert (stored[0].content_type, stored[0].data) == ("image/png", PNG)
    assert "data" not in str(job.parameters)


# --- refused ---


def sora(**changes: Any) -> VideoRequest:
    return VideoRequest(**{"provider": "sora", "prompt": "a tram", **changes})


def veo(**changes: Any) -> VideoRequest:
    return VideoRequest(**{"provider": "veo", "prompt": "a tram", **changes})


def deep(levels: int) -> dict[str, Any]:
    return {"a": deep(levels - 1)} if levels else {}


BAD_REQUESTS = {
    "unknown provider": (VideoRequest(provider="x", prompt="y"), UnknownProviderError, "sora"),
    "unknown model": (sora(model="sora-9"), UnknownModelError, "sora-2"),
    "wrong seconds": (sora(seconds=7), InvalidRequestError, "4, 8, 12"),
    "negative seconds": (sora(seconds=-4), InvalidRequestError, "seconds"),
    "seconds as text": (sora(seconds="8"), InvalidRequestError, "whole number"),
    "wrong size": (sora(size="1x1"), InvalidRequestError, "1280x720"),
    "no size": (sora(size="big"), InvalidRequestError, "WIDTHxHEIGHT"),
    "size and ratio": (veo(size="1280x720", aspect_ratio="16:9"), InvalidRequestError, "together"),
    "wrong ratio": (veo(aspect_ratio="4:3"), InvalidRequestError, "16:9"),
    "wrong resolution": (veo(resolution="8k"), InvalidRequestError, "720p"),
    "empty prompt": (sora(prompt=""), InvalidRequestError, "empty"),
    "blank prompt": (sora(prompt=" \n"), InvalidRequestError, "blank"),
    "long prompt": (sora(prompt="x" * 100_000), InvalidRequestError, "at most"),
    "NUL in the prompt": (sora(prompt="a\0b"), InvalidRequestError, "null character"),
    "half a face in the prompt": (sora(prompt=LONE_SURROGATE), InvalidRequestError, "surrogate"),
    "prompt of bytes": (sora(prompt=b"a tram"), InvalidRequestError, "wanted text"),
    "half a face in negative_prompt": (
        veo(negative_prompt=LONE_SURROGATE),
        InvalidRequestError,
        "surrogate",
    ),
    "seed": (veo(seed=-1), InvalidRequestError, "seed"),
    "empty image": (sora(images=(InputImage(data=b""),)), InvalidRequestError, "empty"),
    "unreadable image": (sora(images=(InputImage(data=b"GIF89a"),)), InvalidRequestError, "PNG"),
    "cut image": (sora(images=(InputImage(data=PNG[:40]),)), InvalidRequestError, "cut off"),
    "image of nothing": (sora(images=(InputImage(),)), InvalidRequestError, "exactly one"),
    "image elsewhere": (sora(images=(InputImage(url="ftp://x"),)), InvalidRequestError, "http"),
    "image with NUL": (sora(images=(InputImage(key="a\0"),)), InvalidRequestError, "null"),
    "image of another size": (
        sora(size="720x1280", images=(InputImage(data=PNG),)),
        InvalidRequestError,
        "720x1280",
    ),
    "extra we set": (sora(extra={"prompt": "x"}), InvalidRequestError, "sets itself"),
    "NUL in extra": (sora(extra={"a": "b\0"}), InvalidRequestError, "null character"),
    "half a face in extra": (sora(extra={LONE_SURROGATE: 1}), InvalidRequestError, "surrogate"),
    "extra without end": (sora(extra=deep(30)), InvalidRequestError, "deeper"),
    "extra of objects": (sora(extra={"a": object()}), InvalidRequestError, "JSON"),
    "extra too big a number": (sora(extra={"a": 2**70}), InvalidRequestError, "64 bits"),
    "extra not finite": (sora(extra={"a": float("nan")}), InvalidRequestError, "number"),
}


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_a_bad_request_is_refused_with_its_sentence_and_leaves_nothing(
    queue: VideoQueue, redis: Redis, name: str
) -> None:
    request, kind, sentence = BAD_REQUESTS[name]

    with pytest.raises(kind, match=sentence) as refused:
        await queue.enqueue(request)

    assert len(refused.value.message) < 400
    assert (await queue.stats()).total == 0
    assert await redis.keys("*") == []


BAD_WISHES: dict[str, tuple[dict[str, Any], str]] = {
    "priority too high": ({"priority": 10}, "0 to 9"),
    "priority negative": ({"priority": -1}, "0 to 9"),
    "priority as text": ({"priority": "5"}, "whole number"),
    "priority as truth": ({"priority": True}, "whole number"),
    "half a priority": ({"priority": 2.5}, "whole number"),
    "naive run_at": ({"run_at": datetime(2030, 1, 1)}, "aware"),  # noqa: DTZ001  the very point
    "run_at as text": ({"run_at": "2030-01-01"}, "aware"),
    "no deadline": ({"deadline_s": 0}, "deadline_s"),
    "endless deadline": ({"deadline_s": 2**40}, "deadline_s"),
    "empty key": ({"idempotency_key": ""}, "idempotency_key"),
    "long key": ({"idempotency_key": "k" * 501}, "500"),
    "NUL in the key": ({"idempotency_key": "a\0"}, "null"),
    "half a face in the key": ({"idempotency_key": LONE_SURROGATE}, "surrogate"),
    "half a face in user_id": ({"user_id": LONE_SURROGATE}, "user_id"),
    "half a face in scene_id": ({"scene_id": LONE_SURROGATE}, "scene_id"),
    "user_id as number": ({"user_id": 7}, "user_id"),
    "metadata of objects": ({"metadata": {"a": object()}}, "JSON"),
    "metadata as list": ({"metadata": [1]}, "mapping"),
    "numbers as names": ({"metadata": {1: 2}}, "JSON"),
    "too big a number": ({"metadata": {"a": 2**70}}, "JSON"),
    "too much metadata": ({"metadata": {"a": "x" * 20_000}}, "16384 bytes"),
    "NUL in metadata": ({"metadata": {"a": ["b\0c"]}}, "null"),
    "NUL in a name": ({"metadata": {"a\0": 1}}, "null"),
    "NUL behind a backslash": ({"metadata": {"a": "\\\0"}}, "null"),
    "half a face in metadata": ({"metadata": {"a": LONE_SURROGATE}}, "JSON"),
    "webhook by ftp": ({"webhook_url": "ftp://me.test/"}, "http or https"),
    "webhook without host": ({"webhook_url": "https:///hook"}, "http or https"),
    "webhook of garbage": ({"webhook_url": "http://[::1"}, "http or https"),
    "webhook with a blank": ({"webhook_url": "https://me.test/a b"}, "http or https"),
    "webhook with NUL": ({"webhook_url": "https://me.test/\0"}, "http or https"),
    "half a face in the webhook": ({"webhook_url": f"https://{LONE_SURROGATE}"}, "http or https"),
    "wrong port": ({"webhook_url": "https://me.test:99999/"}, "http or https"),
    "long webhook": ({"webhook_url": f"https://me.test/{'x' * 2000}"}, "2000"),
}


@pytest.mark.parametrize("name", BAD_WISHES)
async def test_a_bad_wish_is_refused_with_its_sentence_and_leaves_nothing(
    queue: VideoQueue, name: str
) -> None:
    wish, sentence = BAD_WISHES[name]

    with pytest.raises(InvalidRequestError, match=sentence):
        await queue.enqueue(REQUEST, **wish)

    assert (await queue.stats()).total == 0


async def test_a_model_its_vendor_switched_off_is_refused_and_what_works_is_named(
    settings: Settings,
) -> None:
    at_vendor = settings.model_copy(update={"openai_base_url": "https://api.openai.com/v1"})
    async with VideoQueue(at_vendor) as queue:
        with pytest.raises(ModelRetiredError, match=r"What still works: .*veo"):
            await queue.enqueue(REQUEST)

        assert (await queue.stats()).total == 0


async def test_an_unknown_model_goes_through_where_a_setting_allows_it(settings: Settings) -> None:
    daring = settings.model_copy(update={"allow_unknown_models": True})
    async with VideoQueue(daring) as queue:
        job = await queue.enqueue(sora(model="sora-9"))

    assert (job.model, job.estimated_cost_micros) == ("sora-9", None)


async def test_a_database_that_is_away_is_said_at_the_door(settings: Settings) -> None:
    nowhere = settings.model_copy(
        update={"database_url": "postgresql://me:secret@127.0.0.1:1/videos"}
    )

    with pytest.raises(DatabaseError, match=r"127\.0\.0\.1:1") as away:
        async with VideoQueue(nowhere):
            pass

    assert "secret" not in str(away.value)


# --- in the caller's transaction ---


async def test_a_job_exists_when_the_callers_transaction_commits(
    queue: VideoQueue, own: Connection
) -> None:
    async with own.transaction():
        job = await queue.enqueue(REQUEST, connection=own)
        with pytest.raises(JobNotFoundError):
            await queue.get(job.id)

    assert await queue.get(job.id) == job


async def test_a_job_vanishes_with_the_callers_transaction(
    queue: VideoQueue, own: Connection
) -> None:
    transaction = own.transaction()
    await transaction.start()
    await queue.enqueue(REQUEST, connection=own)
    await queue.enqueue_many([REQUEST] * 3, connection=own)
    await transaction.rollback()

    assert (await queue.stats()).total == 0


async def test_a_refusal_does_not_spoil_the_callers_transaction(
    queue: VideoQueue, own: Connection
) -> None:
    async with own.transaction():
        first = await queue.enqueue(REQUEST, idempotency_key="k", connection=own)
        with pytest.raises(IdempotencyConflictError):
            await queue.enqueue(sora(), idempotency_key="k", connection=own)
        with pytest.raises(InvalidRequestError):
            await queue.enqueue(sora(seconds=7), connection=own)

    assert (await queue.get(first.id)).status is JobStatus.PENDING
    assert (await queue.stats()).total == 1


async def test_a_connection_without_a_transaction_is_all_or_none_too(
    queue: VideoQueue, own: Connection
) -> None:
    await own.execute("ALTER TABLE job_inputs ADD CONSTRAINT nothing CHECK (position <> 0)")
    request = sora(size="1280x720", images=(InputImage(data=PNG),))

    with pytest.raises(Exception, match="nothing"):
        await queue.enqueue_many([REQUEST, request], connection=own)

    assert (await queue.stats()).total == 0
    await own.execute("ALTER TABLE job_inputs DROP CONSTRAINT nothing")


# --- many ---


async def test_ten_thousand_are_accepted_in_order(queue: VideoQueue, redis: Redis) -> None:
    requests = [sora(prompt=f"tram {number}") for number in range(10_000)]

    made = await queue.enqueue_many(requests, priority=3, user_id="ada")

    assert [job.prompt for job in made] == [request.prompt for request in requests]
    assert {(job.priority, job.user_id) for job in made} == {(3, "ada")}
    assert await redis.zcard(QUEUE) == 10_000
    assert (await queue.stats()).waiting == 10_000


async def test_one_bad_one_of_many_is_named_and_none_is_accepted(
    queue: VideoQueue, redis: Redis
) -> None:
    requests = [*[REQUEST] * 1500, sora(seconds=7), REQUEST]

    with pytest.raises(InvalidRequestError, match=r"^requests\[1500\]: sora-2 takes seconds"):
        await queue.enqueue_many(requests)

    assert (await queue.stats()).total == 0
    assert await redis.keys("*") == []


async def test_the_kind_of_the_error_stays_when_one_of_many_is_bad(queue: VideoQueue) -> None:
    with pytest.raises(UnknownModelError, match=r"^requests\[1\]: ") as refused:
        await queue.enqueue_many([REQUEST, sora(model="sora-9")])

    assert refused.value.code == "unknown_model"


async def test_none_of_none_is_none(queue: VideoQueue) -> None:
    assert await queue.enqueue_many([]) == []


# --- once ---


async def test_asking_again_with_the_same_key_returns_the_first_job(
    queue: VideoQueue, redis: Redis
) -> None:
    first = await queue.enqueue(REQUEST, idempotency_key="k", user_id="ada")
    again = await queue.enqueue(REQUEST, idempotency_key="k", user_id="ada")
    others = await queue.enqueue(REQUEST, idempotency_key="k", user_id="bob")
    nobodys = await queue.enqueue(REQUEST, idempotency_key="k")

    assert again == first
    assert len({first.id, others.id, nobodys.id}) == 3
    assert len(await queue.history(first.id)) == 1
    assert len(await dispatched(redis)) == 3


async def test_asking_again_returns_the_job_as_it_is_by_then(queue: VideoQueue, hand: Hand) -> None:
    done = await hand.carry(await queue.enqueue(REQUEST, idempotency_key="k"))

    assert await queue.enqueue(REQUEST, idempotency_key="k") == done


@pytest.mark.parametrize(
    "other",
    [
        sora(prompt="a tram in the sun"),
        sora(prompt=REQUEST.prompt, seconds=12),
        sora(prompt=REQUEST.prompt, size="1280x720"),
        veo(prompt=REQUEST.prompt),
        sora(prompt=REQUEST.prompt, size="1280x720", images=(InputImage(data=PNG),)),
    ],
    ids=["prompt", "seconds", "size", "provider", "image"],
)
async def test_a_key_that_was_used_for_another_request_is_refused(
    queue: VideoQueue, other: VideoRequest
) -> None:
    first = await queue.enqueue(REQUEST, idempotency_key="k")

    with pytest.raises(IdempotencyConflictError, match=str(first.id)):
        await queue.enqueue(other, idempotency_key="k")

    assert (await queue.stats()).total == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"webhook_url": "https://other.test/hook"}, "webhook_url"),
        ({"priority": 3}, "priority"),
        ({"run_at": datetime(2030, 1, 1, tzinfo=UTC)}, "run_at"),
        ({"deadline_s": 60}, "deadline_s"),
        ({"metadata": {"order": 2}}, "metadata"),
        ({"scene_id": "s2"}, "scene_id"),
        ({"priority": 3, "scene_id": "s2"}, "priority and scene_id"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
async def test_a_key_that_was_used_with_another_wish_is_refused_by_its_name(
    queue: VideoQueue, changes: dict[str, Any], named: str
) -> None:
    wish: dict[str, Any] = {"idempotency_key": "k", "metadata": {"order": 1}, "scene_id": "s1"}
    first = await queue.enqueue(REQUEST, **wish)

    with pytest.raises(IdempotencyConflictError, match=f"{first.id}.*: {named} differ"):
        await queue.enqueue(REQUEST, **wish | changes)

    assert await queue.enqueue(REQUEST, **wish) == first


async def test_a_moment_is_the_same_in_every_zone(queue: VideoQueue) -> None:
    run_at = datetime(2030, 1, 1, 12, tzinfo=UTC)
    first = await queue.enqueue(REQUEST, idempotency_key="k", run_at=run_at)

    there = run_at.astimezone(timezone(timedelta(hours=2)))
    assert await queue.enqueue(REQUEST, idempotency_key="k", run_at=there) == first


async def test_a_key_of_the_release_before_is_compared_by_its_video_only(
    queue: VideoQueue, own: Connection
) -> None:
    first = await queue.enqueue(REQUEST, idempotency_key="k")
    await own.execute("UPDATE video_jobs SET wish = NULL")

    assert await queue.enqueue(REQUEST, idempotency_key="k", priority=3) == first


async def test_of_twenty_at_once_with_the_same_key_one_job_comes(
    queue: VideoQueue, redis: Redis
) -> None:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(queue.enqueue(REQUEST, idempotency_key="k")) for _ in range(20)]

    assert len({each.result().id for each in asked}) == 1
    assert (await queue.stats()).total == 1
    assert len(await dispatched(redis)) == 1


# --- cancel ---


async def test_a_job_that_nobody_holds_is_cancelled_at_once(queue: VideoQueue) -> None:
    job = await queue.enqueue(REQUEST)

    cancelled = await queue.cancel(job.id)

    assert cancelled.status is JobStatus.CANCELLED
    assert await queue.cancel(job.id) == cancelled


@pytest.mark.parametrize("steps", [1, 2, 3])
async def test_a_job_that_a_worker_holds_is_noted_for_it(
    queue: VideoQueue, hand: Hand, steps: int
) -> None:
    job = await queue.enqueue(REQUEST)
    for step in (hand.claim, hand.submit, hand.generate)[:steps]:
        job = await step(job)

    noted = await queue.cancel(job.id)

    assert (noted.status, noted.worker_id) == (JobStatus.PROCESSING, job.worker_id)
    assert noted.cancel_requested_at is not None
    assert await queue.cancel(job.id) == noted


async def test_a_paid_job_that_nobody_holds_is_dispatched_so_that_a_worker_sees_to_it(
    queue: VideoQueue, hand: Hand, redis: Redis
) -> None:
    job = await hand.submit(await hand.claim(await queue.enqueue(REQUEST)))
    job = await hand.write(job, lifecycle.released(job, "worker_lost"))
    await redis.flushall()

    noted = await queue.cancel(job.id)

    assert (noted.status, noted.worker_id) == (JobStatus.PROCESSING, None)
    assert noted.cancel_requested_at is not None
    assert await dispatched(redis) == [f"{job.id}.{job.lease_epoch}"]


async def test_a_job_given_back_before_its_submit_is_cancelled_at_once(
    queue: VideoQueue, hand: Hand
) -> None:
    job = await queue.cancel((await hand.claim(await queue.enqueue(REQUEST))).id)
    assert job.status is JobStatus.PROCESSING
    await hand.write(job, lifecycle.released(job, "worker_lost"))

    cancelled = await queue.cancel(job.id)

    assert (cancelled.status, cancelled.actual_cost_micros) == (JobStatus.CANCELLED, 0)


async def test_the_events_tell_who_wanted_what(queue: VideoQueue, hand: Hand) -> None:
    job = await queue.cancel((await queue.enqueue(REQUEST)).id, by="ada")
    job = await hand.claim(await queue.retry(job.id, by="bob"))
    await queue.cancel(job.id)
    await hand.write(job, lifecycle.failed(job, GenerationFailedError("no")))
    await queue.retry_failed(by="cli:eve")

    told = [(event.type.value, event.by, event.worker_id) for event in await queue.history(job.id)]

    assert told == [
        ("created", None, None),
        ("cancelled", "ada", None),
        ("retried", "bob", None),
        ("claimed", None, job.worker_id),
        ("cancel_requested", None, None),
        ("failed", None, job.worker_id),
        ("retried", "cli:eve", None),
    ]


async def test_a_cancel_calls_the_worker_that_holds_the_job(
    queue: VideoQueue, hand: Hand, redis: Redis
) -> None:
    job = await hand.claim(await queue.enqueue(REQUEST))
    assert job.worker_id is not None
    async with asyncio.timeout(10), redis.pubsub() as pubsub:
        await pubsub.subscribe(f"vidgen:calls:{job.worker_id}")
        await pubsub.get_message(timeout=5)

        await queue.cancel(job.id)
        call = await pubsub.get_message(timeout=5)

    assert call is not None
    wakes = live.Wakes()
    wakes.hear(call["data"])
    assert wakes.wishes.is_set()


async def test_a_job_that_has_ended_is_returned_as_it_is(queue: VideoQueue, hand: Hand) -> None:
    done = await hand.carry(await queue.enqueue(REQUEST))

    assert await queue.cancel(done.id) == done


# --- retry ---


@pytest.mark.parametrize(
    ("error", "status", "pays_again"),
    [
        (GenerationTimeoutError("late"), JobStatus.PROCESSING, False),
        (GenerationFailedError("no"), JobStatus.PENDING, True),
    ],
)
async def test_a_failed_job_goes_on_or_starts_anew_and_is_dispatched(
    queue: VideoQueue,
    hand: Hand,
    redis: Redis,
    error: VidgenError,
    status: JobStatus,
    pays_again: bool,
) -> None:
    job = await hand.submit(await hand.claim(await queue.enqueue(REQUEST)))
    await hand.fail(job, error)
    await redis.flushall()

    job = await queue.retry(job.id)

    assert (job.status, job.error_code) == (status, None)
    assert (job.operation is None) is pays_again
    assert (await queue.history(job.id))[-1].detail == {"pays_again": pays_again}
    assert await dispatched(redis) == [f"{job.id}.{job.lease_epoch}"]


async def test_a_cancelled_job_can_be_retried(queue: VideoQueue, hand: Hand) -> None:
    job = await queue.enqueue(REQUEST)
    await queue.cancel(job.id)

    job = await queue.retry(job.id)

    assert (job.status, job.cancel_requested_at) == (JobStatus.PENDING, None)
    done = await hand.carry(job)
    assert done.actual_cost_micros == done.estimated_cost_micros


async def test_a_video_that_was_cancelled_on_its_way_to_the_bucket_is_not_paid_again(
    queue: VideoQueue, hand: Hand
) -> None:
    job = await hand.submit(await hand.claim(await queue.enqueue(REQUEST)))
    job = await hand.generate(job)
    await hand.write(job, lifecycle.cancelled(job, held=True, stopped_at_provider=False))

    job = await queue.retry(job.id)

    assert (job.status, job.stage) == (JobStatus.PROCESSING, Stage.TRANSFERRING)
    job = await hand.write(await hand.claim(job), lifecycle.completed(job, a_video()))
    assert job.attempt == 1


async def test_a_job_that_may_have_been_paid_can_be_retried_by_hand(
    queue: VideoQueue, hand: Hand
) -> None:
    job = await hand.claim(await queue.enqueue(REQUEST))
    job = await hand.write(job, lifecycle.submitting(job))
    await hand.fail(job, SubmitUnknownError("?"))

    job = await queue.retry(job.id)

    assert (job.status, job.attempt, job.max_attempts) == (JobStatus.PENDING, 1, 4)


async def test_a_running_or_completed_job_cannot_be_retried(queue: VideoQueue, hand: Hand) -> None:
    waiting = await queue.enqueue(REQUEST)
    running = await hand.claim(await queue.enqueue(REQUEST))
    done = await hand.carry(await queue.enqueue(REQUEST))

    for job in (waiting, running, done):
        with pytest.raises(InvalidStateError, match=str(job.id)):
            await queue.retry(job.id)


async def test_of_two_retries_at_once_one_wins(queue: VideoQueue, hand: Hand) -> None:
    job = await hand.fail(await queue.enqueue(REQUEST))

    async def retry() -> bool:
        try:
            await queue.retry(job.id)
        except InvalidStateError:
            return False
        return True

    async with asyncio.TaskGroup() as group:
        tries = [group.create_task(retry()) for _ in range(5)]

    assert sum(each.result() for each in tries) == 1


async def test_a_job_that_does_not_exist_is_not_found(queue: VideoQueue) -> None:
    for deed in (queue.get(NOBODY), queue.cancel(NOBODY), queue.retry(NOBODY)):
        with pytest.raises(JobNotFoundError, match=str(NOBODY)):
            await deed
    assert await queue.history(NOBODY) == []


# --- lists ---


async def test_stats_and_lists_tell_what_there_is(queue: VideoQueue, hand: Hand) -> None:
    first = await queue.enqueue(REQUEST, user_id="ada")
    second = await queue.enqueue(
        REQUEST, scene_id="s", run_at=datetime.now(UTC) + timedelta(days=1)
    )
    third = await hand.fail(await queue.enqueue(veo()))

    assert await queue.stats() == Counts(
        waiting=1, active=0, completed=0, failed=1, delayed=1, cancelled=0
    )
    assert await queue.recent() == [third, second, first]
    assert await queue.recent(before=third.id, limit=1) == [second]
    assert await queue.recent(status=JobStatus.FAILED, provider="veo") == [third]
    assert await queue.recent(user_id="ada") == [first]
    assert await queue.recent(scene_id="s") == [second]


# --- Redis is away ---


@pytest.mark.parametrize("trouble", ["cut", "muted"])
async def test_a_redis_that_is_away_costs_a_moment_and_no_job(
    queue: VideoQueue,
    hand: Hand,
    proxy: Proxy,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dispatch, "COMMAND_TIMEOUT_S", 0.3)
    failed = await hand.fail(await queue.enqueue(REQUEST))
    if trouble == "cut":
        await proxy.cut()
    else:
        proxy.mute()

    async with asyncio.timeout(8):
        job = await queue.enqueue(REQUEST)
        many = await queue.enqueue_many([REQUEST] * 1200)
        retried = await queue.retry(failed.id)
        cancelled = await queue.cancel(job.id)

    assert (job.status, retried.status) == (JobStatus.PENDING, JobStatus.PENDING)
    assert cancelled.status is JobStatus.CANCELLED
    assert len(many) == 1200
    assert (await queue.stats()).waiting == 1201


async def test_what_was_accepted_without_redis_is_found_to_be_lost_later(
    queue: VideoQueue, proxy: Proxy, redis: Redis
) -> None:
    await proxy.cut()
    job = await queue.enqueue(REQUEST)
    await proxy.restore()

    lost = dispatch.Dispatch(job_id=job.id, epoch=job.lease_epoch)

    assert await dispatch.Dispatcher(redis, QUEUE).sort([lost]) == ([lost], [])


async def test_a_shared_queue_uses_what_is_open_already(
    settings: Settings, queue: VideoQueue
) -> None:
    shared = VideoQueue.sharing(settings, queue._database, queue._redis)

    job = await shared.enqueue(REQUEST)

    assert await queue.get(job.id) == job


def test_the_names_of_the_wishes_are_the_ones_that_are_documented() -> None:
    documented: Mapping[str, object] = VideoQueue.enqueue.__annotations__

    assert set(documented) - {"request", "return"} == {
        *("idempotency_key", "priority", "run_at", "webhook_url", "metadata"),
        *("scene_id", "user_id", "deadline_s", "reuse_within_s", "connection"),
    }


async def test_a_job_in_a_state_of_a_newer_release_cannot_be_cancelled_here(
    settings: Settings, database_url: str
) -> None:
    settings = settings.model_copy(update={"database_url": database_url})
    async with VideoQueue(settings) as queue:
        job = await queue.enqueue(REQUEST)
        async with connect(database_url) as newer:
            await newer.execute("ALTER TABLE video_jobs DROP CONSTRAINT video_jobs_stage_check")
            await newer.execute(
                """
                UPDATE video_jobs SET status = 'processing', stage = 'upscaling', attempt = 1,
                    intent_at = now()
                """
            )

        with pytest.raises(InvalidStateError, match="a newer release"):
            await queue.cancel(job.id)


# --- PostgreSQL goes away meanwhile ---


@pytest.fixture
async def postgres(emptied_database_url: str) -> AsyncIterator[Proxy]:
    """PostgreSQL, as those who watch see it."""
    async with proxy_of(urlsplit(emptied_database_url).port or 0) as proxy:
        yield proxy


@pytest.fixture
async def watching(settings: Settings, postgres: Proxy) -> AsyncIterator[VideoQueue]:
    url = urlsplit(settings.database_url)
    through = url._replace(netloc=f"vidgen@127.0.0.1:{postgres.port}").geturl()
    async with VideoQueue(settings.model_copy(update={"database_url": through})) as queue:
        yield queue


@contextmanager
def warned() -> Iterator[asyncio.Event]:
    """Set once something is logged that somebody may have to look at."""
    event = asyncio.Event()
    sink = logger.add(lambda _: event.set(), level="WARNING")
    try:
        yield event
    finally:
        logger.remove(sink)


async def test_whoever_watches_over_an_outage_sees_every_event_once_and_in_order(
    queue: VideoQueue, hand: Hand, watching: VideoQueue, postgres: Proxy
) -> None:
    job = await queue.enqueue(REQUEST)
    seen: list[EventType] = []
    begun = asyncio.Event()

    async def watch() -> None:
        async for event in watching.events(job.id):
            seen.append(event.type)
            if event.type is EventType.CLAIMED:
                begun.set()

    with warned() as noticed:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(watch())
            waiting = group.create_task(watching.wait(job.id))
            held = await hand.claim(job)
            await begun.wait()
            await postgres.cut()
            await hand.complete(await hand.generate(await hand.submit(held)))
            await noticed.wait()
            await postgres.restore()

    assert seen == [event.type for event in await queue.history(job.id)]
    assert waiting.result().status is JobStatus.COMPLETED


async def test_a_wait_over_an_outage_ends_with_its_own_timeout(
    queue: VideoQueue, watching: VideoQueue, postgres: Proxy
) -> None:
    job = await queue.enqueue(REQUEST)
    await postgres.cut()

    with pytest.raises(TimeoutError):
        await watching.wait(job.id, timeout=0.2)


async def test_a_database_that_refuses_us_is_not_waited_for(
    settings: Settings, empty_database_url: str
) -> None:
    settings = settings.model_copy(update={"database_url": empty_database_url})
    async with VideoQueue(settings) as unmigrated:
        with pytest.raises(DatabaseRefusedError):
            await unmigrated.wait(NOBODY)


# --- the same video again ---

KITE = VideoRequest(provider="sora", prompt="a kite", seconds=4)
DAY_S = 24 * 3600


async def test_a_video_that_is_there_is_not_bought_again(queue: VideoQueue, hand: Hand) -> None:
    made = await hand.carry(await queue.enqueue(KITE, user_id="ada"))

    again = await queue.enqueue(KITE, user_id="ada", reuse_within_s=DAY_S)
    [many, other] = await queue.enqueue_many(
        [KITE, VideoRequest(provider="sora", prompt="another kite", seconds=4)],
        user_id="ada",
        reuse_within_s=DAY_S,
    )

    assert (again.id, again.status) == (made.id, JobStatus.COMPLETED)
    assert many.id == made.id
    assert other.status is JobStatus.PENDING


@pytest.mark.parametrize(
    "changes",
    [
        {"user_id": "bob"},
        {"user_id": None},
        {"reuse_within_s": None},
        {"request": VideoRequest(provider="sora", prompt="a kite", seconds=8)},
    ],
    ids=["another user", "no user", "not asked for", "another video"],
)
async def test_only_the_same_video_of_the_same_user_is_used_again(
    queue: VideoQueue, hand: Hand, changes: dict[str, Any]
) -> None:
    made = await hand.carry(await queue.enqueue(KITE, user_id="ada"))

    wanted: dict[str, Any] = {"request": KITE, "user_id": "ada", "reuse_within_s": DAY_S} | changes
    other = await queue.enqueue(**wanted)

    assert other.id != made.id
    assert other.status is JobStatus.PENDING


async def test_a_video_that_is_too_old_or_not_made_yet_is_bought(
    queue: VideoQueue, hand: Hand, settings: Settings
) -> None:
    made = await hand.carry(await queue.enqueue(KITE))
    async with connect(settings.database_url) as connection:
        await connection.execute(
            "UPDATE video_jobs SET completed_at = now() - interval '2 days' WHERE id = $1", made.id
        )

    bought = await queue.enqueue(KITE, reuse_within_s=DAY_S)
    beside = await queue.enqueue(KITE, reuse_within_s=DAY_S)

    assert len({made.id, bought.id, beside.id}) == 3


async def test_a_video_that_is_to_be_forgotten_is_not_used_again(
    queue: VideoQueue, hand: Hand
) -> None:
    made = await hand.carry(await queue.enqueue(KITE, user_id="ada"))
    await queue.forget("ada")

    bought = await queue.enqueue(KITE, user_id="ada", reuse_within_s=DAY_S)
    made_since = await hand.carry(bought)
    again = await queue.enqueue(KITE, user_id="ada", reuse_within_s=DAY_S)

    assert bought.id != made.id
    assert again == made_since


async def test_a_key_that_was_used_before_decides(queue: VideoQueue, hand: Hand) -> None:
    first = await queue.enqueue(KITE, idempotency_key="order-1")
    made = await hand.carry(await queue.enqueue(KITE))

    same = await queue.enqueue(KITE, idempotency_key="order-1", reuse_within_s=DAY_S)
    other = await queue.enqueue(KITE, idempotency_key="order-2", reuse_within_s=DAY_S)

    assert (same.id, other.id) == (first.id, made.id)


async def test_a_key_stands_for_the_video_that_it_was_answered_with(
    queue: VideoQueue, hand: Hand
) -> None:
    made = await hand.carry(await queue.enqueue(KITE, user_id="ada"))
    wish: dict[str, Any] = {"user_id": "ada", "idempotency_key": "order-1"}
    first = await queue.enqueue(KITE, **wish, reuse_within_s=DAY_S)
    newer = await hand.carry(await queue.enqueue(KITE, user_id="ada"))

    again = [
        await queue.enqueue(KITE, **wish, reuse_within_s=DAY_S),
        await queue.enqueue(KITE, **wish),
    ]
    of_another_user = await queue.enqueue(KITE, idempotency_key="order-1")

    assert newer.id != made.id
    assert [job.id for job in (first, *again)] == [made.id] * 3
    assert of_another_user.status is JobStatus.PENDING
    other = VideoRequest(provider="sora", prompt="another kite", seconds=4)
    conflicts: list[tuple[VideoRequest, dict[str, Any], str]] = [
        (other, {}, "the video differs"),
        (other, {"reuse_within_s": DAY_S}, "the video differs"),
        (KITE, {"priority": 5}, "priority differs"),
    ]
    for request, more, named in conflicts:
        with pytest.raises(IdempotencyConflictError, match=named):
            await queue.enqueue(request, **wish, **more)


async def test_of_many_at_once_under_one_key_all_get_the_same_video(
    queue: VideoQueue, hand: Hand, settings: Settings
) -> None:
    made = await hand.carry(await queue.enqueue(KITE))

    async with asyncio.TaskGroup() as group:
        asked = [
            group.create_task(
                queue.enqueue(
                    KITE,
                    idempotency_key=f"order-{number // 8}",
                    reuse_within_s=DAY_S if number % 2 else None,
                )
            )
            for number in range(40)
        ]

    found = [task.result().id for task in asked]
    keys = [set(found[start : start + 8]) for start in range(0, 40, 8)]
    assert [len(ids) for ids in keys] == [1] * 5
    async with connect(settings.database_url) as connection:
        bought = await connection.fetchval("SELECT count(*) FROM video_jobs")
        used_again = await connection.fetchval("SELECT count(*) FROM reuses")
    assert bought - 1 + used_again == 5
    assert used_again == sum(ids == {made.id} for ids in keys)


async def test_a_key_whose_answer_is_being_decided_is_waited_for(
    queue: VideoQueue, hand: Hand, settings: Settings
) -> None:
    made = await hand.carry(await queue.enqueue(KITE))
    async with (
        asyncio.TaskGroup() as group,
        connect(settings.database_url) as mine,
        mine.transaction(),
    ):
        first = await queue.enqueue(
            KITE, idempotency_key="order-1", reuse_within_s=DAY_S, connection=mine
        )
        second = group.create_task(queue.enqueue(KITE, idempotency_key="order-1"))
        async with asyncio.timeout(10):
            while not await mine.fetchval(  # noqa: ASYNC110  a lock tells nobody
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            ):
                await asyncio.sleep(0.01)

    assert first.id == made.id
    assert second.result().id == made.id


async def test_a_video_that_is_gone_or_about_to_go_is_not_used_again(
    queue: VideoQueue, hand: Hand, settings: Settings
) -> None:
    made = await hand.carry(await queue.enqueue(KITE))
    async with connect(settings.database_url) as connection:
        await connection.execute(
            "UPDATE video_jobs SET completed_at = now() - interval '23 hours 30 minutes'"
        )
    keeping = settings.model_copy(update={"result_retention_days": 1})
    async with VideoQueue(keeping) as careful:
        bought = await careful.enqueue(KITE, reuse_within_s=2 * DAY_S)
    there = await queue.enqueue(KITE, reuse_within_s=2 * DAY_S)
    async with connect(settings.database_url) as connection:
        await connection.execute("UPDATE video_jobs SET gone_at = now() WHERE id = $1", made.id)
    gone = await queue.enqueue(KITE, reuse_within_s=2 * DAY_S)

    assert there.id == made.id
    assert len({made.id, bought.id, gone.id}) == 3


@pytest.mark.parametrize("seconds", [0, -1, True, 1.5, 366 * DAY_S + 1])
async def test_a_window_that_is_none_is_refused(queue: VideoQueue, seconds: Any) -> None:
    with pytest.raises(InvalidRequestError, match="reuse_within_s"):
        await queue.enqueue(KITE, reuse_within_s=seconds)


async def test_a_sealed_video_is_found_again_by_whoever_has_a_key(settings: Settings) -> None:
    old, new = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2))
    sealing = settings.model_copy(
        update={"encrypt_prompts": True, "encryption_keys": SecretStr(old)}
    )
    rotated = settings.model_copy(
        update={"encrypt_prompts": True, "encryption_keys": SecretStr(f"{new},{old}")}
    )
    async with VideoQueue(sealing) as queue:
        made = await Hand(queue).carry(await queue.enqueue(KITE))

    async with VideoQueue(rotated) as queue:
        again = await queue.enqueue(KITE, reuse_within_s=DAY_S)

    assert again.id == made.id
