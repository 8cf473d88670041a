"""Fallbacks and routes at the enqueue: settled then, kept with the job, sealed with its words."""

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from tests.by_hand import Hand
from vidgen import Fallback, VideoRequest, lifecycle
from vidgen.document import job_document
from vidgen.errors import IdempotencyConflictError, InvalidRequestError, QuotaExhaustedError
from vidgen.job import REROUTES_BY_DEFAULT, VideoJob
from vidgen.lifecycle import Backoff, Prospect
from vidgen.pipeline.deliver import body_of
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.store.pool import connect

LITE = "veo-3.1-lite-generate-preview"
REQUEST = VideoRequest(
    provider="sora",
    prompt="a tram in the rain",
    negative_prompt=None,
    seconds=8,
    size="1280x720",
    fallbacks=[Fallback(provider="veo", model=LITE, extra={"personGeneration": "SECRET-WORD"})],
    max_cost_micros=900_000,
)
ROUTES = """
[routes.cheap]
targets = ["sora", "veo/veo-3.1-lite-generate-preview"]
on = ["quota", "policy"]
max_cost_usd = 1
"""


@pytest.fixture
def routes_file(tmp_path: Path) -> Path:
    file = tmp_path / "routes.toml"
    file.write_text(ROUTES)
    return file


@pytest.fixture
def edited_file(tmp_path: Path) -> Path:
    file = tmp_path / "edited.toml"
    file.write_text('[routes.cheap]\ntargets = ["veo"]\n')
    return file


@pytest.fixture
def settings(settings: Settings, routes_file: Path) -> Settings:
    return settings.model_copy(update={"routes_file": str(routes_file)})


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[VideoQueue]:
    async with VideoQueue(settings) as queue:
        yield queue


async def moved(queue: VideoQueue, job: VideoJob) -> VideoJob:
    hand = Hand(queue)
    job = await hand.claim(job)
    job = await hand.write(job, lifecycle.submitting(job))
    change = lifecycle.errored(
        job,
        QuotaExhaustedError("no money"),
        backoff=Backoff(base_s=0),
        now=job.created_at,
        prospects=[Prospect(target=1)],
    )
    return await hand.write(job, change)


async def test_a_job_keeps_its_targets_and_what_each_is_asked_for(queue: VideoQueue) -> None:
    job = await queue.enqueue(REQUEST)

    assert job == await queue.get(job.id)
    assert [(each.provider, each.model) for each in job.targets] == [
        ("sora", "sora-2"),
        ("veo", LITE),
    ]
    assert [each.estimated_cost_micros for each in job.targets] == [800_000, 400_000]
    assert job.target_parameters[0] == job.parameters
    assert job.target_parameters[1]["aspect_ratio"] == "16:9"
    assert (job.target, job.reroute_on, job.route) == (0, REROUTES_BY_DEFAULT, None)


async def test_a_request_without_fallbacks_has_no_targets(queue: VideoQueue) -> None:
    job = await queue.enqueue(replace(REQUEST, fallbacks=()))

    assert (job.targets, job.target_parameters, job.reroute_on) == ((), (), ())
    assert job.max_cost_micros == 900_000


async def test_who_is_in_force_changes_with_the_move_and_what_was_asked_for_stays(
    queue: VideoQueue,
) -> None:
    job = await moved(queue, await queue.enqueue(REQUEST))

    assert (job.provider, job.model, job.estimated_cost_micros) == ("veo", LITE, 400_000)
    assert job.parameters == job.target_parameters[1]
    assert job.target_parameters[0]["size"] == "1280x720"


# --- routes ---


async def test_a_route_is_settled_at_the_enqueue_whatever_its_file_says_later(
    settings: Settings, queue: VideoQueue, edited_file: Path
) -> None:
    wish = VideoRequest(route="cheap", prompt="a tram", seconds=8, size="1280x720")
    job = await queue.enqueue(wish, idempotency_key="k")

    edited = settings.model_copy(update={"routes_file": str(edited_file)})
    async with VideoQueue(edited) as later:
        again = await later.enqueue(wish, idempotency_key="k")

    assert again == job
    assert (job.route, job.provider, job.target) == ("cheap", "sora", 0)
    assert [each.provider for each in job.targets] == ["sora", "veo"]
    assert (job.reroute_on, job.max_cost_micros) == (("quota", "policy"), 1_000_000)


async def test_what_a_route_brought_before_it_was_edited_is_not_used_again(
    settings: Settings, queue: VideoQueue, tmp_path: Path
) -> None:
    wish = VideoRequest(route="cheap", prompt="a tram", seconds=8, size="1280x720")
    made = await Hand(queue).carry(await queue.enqueue(wish))
    file = tmp_path / "other.toml"
    found = []
    for text in (ROUTES, ROUTES.replace('"sora"', '{ target = "sora", seconds = 4 }')):
        file.write_text(text)
        async with VideoQueue(settings.model_copy(update={"routes_file": str(file)})) as later:
            found.append(await later.enqueue(wish, reuse_within_s=3600))

    same, edited = found
    assert same.id == made.id
    assert edited.id != made.id
    assert edited.parameters["seconds"] == 4


@pytest.mark.parametrize(
    ("asked", "ceiling"), [(None, 1_000_000), (900_000, 900_000), (9_000_000, 1_000_000)]
)
async def test_a_request_may_lower_the_ceiling_of_its_route(
    queue: VideoQueue, asked: int | None, ceiling: int
) -> None:
    wish = VideoRequest(route="cheap", prompt="a tram", max_cost_micros=asked)

    assert (await queue.enqueue(wish)).max_cost_micros == ceiling


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        (VideoRequest(prompt="a tram"), "provider is missing: give one of sora, veo"),
        (VideoRequest(route="dear", prompt="a tram"), "no route 'dear'; known are cheap"),
        (VideoRequest(route="cheap", provider="sora", prompt="a tram"), "give it, or provider"),
        (VideoRequest(route="cheap", prompt="a tram", extra={"a": 1}), "extra is for one provider"),
        (replace(REQUEST, fallbacks="veo"), "fallbacks must be a list"),  # type: ignore[arg-type]  # on purpose
        (replace(REQUEST, fallbacks=["veo"]), r"fallbacks\[0\] is no Fallback"),  # type: ignore[list-item]  # on purpose
        (replace(REQUEST, reroute_on=["always"]), "reroute_on has 'always'; known are refused"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    queue: VideoQueue, wish: VideoRequest, sentence: str
) -> None:
    with pytest.raises(InvalidRequestError, match=sentence):
        await queue.enqueue(wish)


# --- the same request ---


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"fallbacks": ()}, "fallbacks differs"),
        ({"fallbacks": [Fallback(provider="veo", model=LITE)]}, "fallbacks differs"),
        ({"reroute_on": ["policy"]}, "reroute_on differs"),
        ({"max_cost_micros": 950_000}, "max_cost_micros differs"),
    ],
)
async def test_a_key_is_for_one_way_to_get_the_video(
    queue: VideoQueue, change: dict[str, object], named: str
) -> None:
    first = await queue.enqueue(REQUEST, idempotency_key="k")
    assert await queue.enqueue(REQUEST, idempotency_key="k") == first

    with pytest.raises(IdempotencyConflictError, match=named):
        await queue.enqueue(replace(REQUEST, **change), idempotency_key="k")  # type: ignore[arg-type]  # as the row says


async def test_only_what_was_asked_for_is_used_again(queue: VideoQueue) -> None:
    hand = Hand(queue)
    instead = await hand.complete(
        await hand.generate(
            await hand.submit(await hand.claim(await moved(queue, await queue.enqueue(REQUEST))))
        )
    )

    bought = await queue.enqueue(REQUEST, reuse_within_s=3600)
    made = await hand.carry(bought)
    again = await queue.enqueue(replace(REQUEST, fallbacks=()), reuse_within_s=3600)

    assert bought.id != instead.id
    assert again == made


# --- what others are told ---


async def test_a_webhook_and_a_list_tell_the_targets_and_no_words_of_the_customer(
    queue: VideoQueue,
) -> None:
    job = await queue.enqueue(REQUEST, webhook_url="https://example.com/hook")
    job = await moved(queue, job)
    await Hand(queue).fail(job)

    [delivery] = await queue.deliveries(job.id)
    told = body_of(delivery).decode()

    for text in (told, str(job_document(job)), str(delivery.snapshot)):
        assert LITE in text
        assert "sora-2" in text
        assert "SECRET-WORD" not in text
    assert "SECRET-WORD" in str(job_document(job, private=True))


async def test_sealed_words_of_fallbacks_are_nowhere_in_the_row_also_after_moves_and_retries(
    settings: Settings,
) -> None:
    ring = SecretStr(base64.b64encode(bytes(range(32))).decode())
    sealing = settings.model_copy(update={"encryption_key": ring, "encrypt_prompts": True})
    async with VideoQueue(sealing) as queue:
        job = await queue.enqueue(REQUEST)
        rows = [await _row(sealing)]
        await moved(queue, job)
        rows.append(await _row(sealing))
        there = await queue.get(job.id)
        await Hand(queue).fail(there)
        await queue.retry(job.id)
        rows.append(await _row(sealing))
        back = await queue.get(job.id)

    assert not [row for row in rows if "SECRET-WORD" in row or "tram" in row]
    assert there.parameters["extra"] == {"personGeneration": "SECRET-WORD"}
    assert there.parameters == there.target_parameters[1]
    assert (back.target, back.parameters["extra"], back.prompt) == (0, {}, REQUEST.prompt)


async def _row(settings: Settings) -> str:
    async with connect(settings.database_url) as connection:
        row: str = await connection.fetchval("SELECT to_jsonb(video_jobs)::text FROM video_jobs")
    return row
