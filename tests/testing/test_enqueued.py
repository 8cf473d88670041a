"""What was enqueued is found, and what was not is told so that nobody needs to look."""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from vidgen import JobStatus, VideoRequest
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.store.pool import connect
from vidgen.testing import all_enqueued, assert_enqueued, containing, enqueued, refute_enqueued


@pytest.fixture
async def queue(emptied_database_url: str, redis_url: str) -> AsyncIterator[VideoQueue]:
    settings = Settings(
        database_url=emptied_database_url,
        redis_url=redis_url,
        openai_base_url="http://sora.test/v1",
    )
    async with VideoQueue(settings) as queue:
        yield queue


def a_tram(where: str = "in the rain") -> VideoRequest:
    return VideoRequest(provider="sora", prompt=f"a tram {where}", seconds=8, size="1280x720")


async def test_a_video_is_found_by_everything_that_was_asked_for(queue: VideoQueue) -> None:
    run_at = datetime.now(UTC) + timedelta(days=1)
    made = await queue.enqueue(
        a_tram(),
        idempotency_key="order-1",
        priority=3,
        run_at=run_at,
        webhook_url="https://shop.test/done",
        metadata={"order": 1, "buyer": "ada"},
        scene_id="scene-7",
        user_id="user-9",
        deadline_s=600,
    )

    found = await assert_enqueued(
        queue,
        provider="sora",
        model="sora-2",
        prompt="a tram in the rain",
        seconds=8,
        size="1280x720",
        seed=None,
        idempotency_key="order-1",
        priority=3,
        run_at=run_at,
        webhook_url="https://shop.test/done",
        metadata={"buyer": "ada"},
        scene_id="scene-7",
        user_id="user-9",
        deadline_s=600,
        status=JobStatus.PENDING,
        count=1,
    )

    assert found == made


async def test_a_text_may_be_described_in_four_ways(queue: VideoQueue) -> None:
    made = await queue.enqueue(a_tram())

    for prompt in (
        "a tram in the rain",
        containing("tram", "rain"),
        re.compile(r"^a \w+ in"),
        lambda text: text.endswith("rain"),
    ):
        assert await assert_enqueued(queue, prompt=prompt) == made


async def test_of_several_the_last_one_is_returned_and_all_are_listed_in_order(
    queue: VideoQueue,
) -> None:
    made = [await queue.enqueue(a_tram(where)) for where in ("here", "there", "everywhere")]

    assert await assert_enqueued(queue, provider="sora", count=3) == made[-1]
    assert await all_enqueued(queue, prompt=containing("here")) == made
    assert await all_enqueued(queue, prompt=containing("there")) == [made[1]]


async def test_more_jobs_than_a_page_holds_are_all_counted(
    queue: VideoQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enqueued, "PAGE", 2)
    made = await queue.enqueue_many([a_tram(str(number)) for number in range(5)])

    assert await all_enqueued(queue) == made


async def test_a_transaction_sees_what_it_has_enqueued_and_nobody_else_does(
    queue: VideoQueue, emptied_database_url: str
) -> None:
    async with connect(emptied_database_url) as connection:
        transaction = connection.transaction()
        await transaction.start()
        made = await queue.enqueue(a_tram(), connection=connection)

        assert await assert_enqueued(connection, scene_id=None, count=1) == made
        await refute_enqueued(queue)
        await transaction.rollback()

        await refute_enqueued(connection)


async def test_what_is_missing_is_told_beside_what_is_there_the_closest_first(
    queue: VideoQueue,
) -> None:
    far = await queue.enqueue(a_tram("at night"), scene_id="scene-1", user_id="bob")
    near = await queue.enqueue(a_tram(), scene_id="scene-8", user_id="ada")

    with pytest.raises(AssertionError) as failure:
        await assert_enqueued(
            queue, prompt=containing("rain"), scene_id="scene-7", user_id="ada", priority=0
        )

    assert str(failure.value) == (
        "no video is enqueued, expected at least 1 with\n"
        "    prompt = containing 'rain'\n"
        "    scene_id = 'scene-7'\n"
        "    user_id = 'ada'\n"
        "    priority = 0\n"
        "There are, closest first:\n"
        f"  job {near.id}, pending:\n"
        "    prompt = 'a tram in the rain'\n"
        "    scene_id = 'scene-8'   <- expected 'scene-7'\n"
        "    user_id = 'ada'\n"
        "    priority = 0\n"
        f"  job {far.id}, pending:\n"
        "    prompt = 'a tram at night'   <- expected containing 'rain'\n"
        "    scene_id = 'scene-1'   <- expected 'scene-7'\n"
        "    user_id = 'bob'   <- expected 'ada'\n"
        "    priority = 0"
    )


async def test_an_empty_queue_is_told_as_such(queue: VideoQueue) -> None:
    with pytest.raises(AssertionError, match=r"no job at all\. .* its own connection"):
        await assert_enqueued(queue)


async def test_another_number_than_expected_fails(queue: VideoQueue) -> None:
    await queue.enqueue_many([a_tram(), a_tram()])

    with pytest.raises(AssertionError, match="2 videos are enqueued, expected exactly 1"):
        await assert_enqueued(queue, count=1)


async def test_a_refuted_video_is_shown(queue: VideoQueue) -> None:
    job = await queue.enqueue(a_tram(), scene_id="scene-7")

    with pytest.raises(AssertionError, match=f"(?s)1 video is enqueued.*{job.id}.*scene-7"):
        await refute_enqueued(queue, provider="sora", scene_id="scene-7")


async def test_a_function_that_cannot_take_a_value_does_not_hide_the_others(
    queue: VideoQueue,
) -> None:
    await queue.enqueue(a_tram())
    wanted = await queue.enqueue(a_tram(), scene_id="scene-7")

    def is_seven(scene_id: str) -> bool:
        return scene_id.endswith("7")

    assert await assert_enqueued(queue, scene_id=is_seven, count=1) == wanted
    with pytest.raises(
        AssertionError, match=r"is_seven in line \d+ takes, which raised AttributeError"
    ):
        await assert_enqueued(queue, scene_id=is_seven, user_id="ada")


async def test_long_texts_that_differ_late_are_told_apart(queue: VideoQueue) -> None:
    await queue.enqueue(a_tram("x" * 200 + " by day"))

    with pytest.raises(AssertionError, match="they part at character 211: 'day', not 'night'"):
        await assert_enqueued(queue, prompt=f"a tram {'x' * 200} by night")


async def test_a_misspelt_name_is_no_video_that_is_missing(queue: VideoQueue) -> None:
    with pytest.raises(TypeError, match="no 'prmpt' to be expected; did you mean 'prompt'"):
        await assert_enqueued(queue, prmpt="a tram")  # type: ignore[call-arg]


async def test_a_video_that_is_enqueued_in_the_background_is_waited_for(
    queue: VideoQueue,
) -> None:
    async with asyncio.TaskGroup() as group:
        found = group.create_task(assert_enqueued(queue, scene_id="late", within_s=10))
        await asyncio.sleep(0)
        made = await queue.enqueue(a_tram(), scene_id="late")

    assert found.result() == made
