"""Prompts at rest: sealed by whoever asks, opened by whoever needs them, told to nobody else."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from tests.builders import WORKER
from tests.test_queue import PNG
from vidgen import InputImage, VideoJob, VideoRequest, lifecycle, prompts
from vidgen.errors import IdempotencyConflictError, KeyUnreadableError, LeaseLostError
from vidgen.queue import VideoQueue
from vidgen.settings import Settings
from vidgen.store import inputs, jobs
from vidgen.store.pool import Database
from vidgen.vault import Vault, key_id

OLD, NEW, WRONG = (bytes([number]) * 32 for number in (1, 2, 3))
REQUEST = VideoRequest(
    provider="veo",
    prompt="a planted tram",
    negative_prompt="no planted bus",
    images=(InputImage(role="first_frame", data=PNG),),
)
PLAIN = VideoRequest(provider="sora", prompt="a planted tram")
KEPT = InputImage(role="first_frame", url="https://pictures.test/planted?signature=planted")


def ring(*keys: bytes) -> SecretStr:
    return SecretStr(",".join(base64.b64encode(key).decode() for key in keys))


@pytest.fixture
def settings(emptied_database_url: str, redis_url: str) -> Settings:
    return Settings(
        database_url=emptied_database_url,
        redis_url=redis_url,
        openai_api_key=SecretStr("sk-x"),
        openai_base_url="http://sora.test/v1",
        gemini_api_key=SecretStr("g-x"),
        gemini_base_url="http://veo.test/v1beta",
        encryption_keys=ring(OLD),
        encrypt_prompts=True,
    )


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    async with Database(settings.database_url, size=2) as database:
        yield database


@pytest.fixture
async def queue(settings: Settings) -> AsyncIterator[VideoQueue]:
    async with VideoQueue(settings) as queue:
        yield queue


@asynccontextmanager
async def another(settings: Settings, *keys: bytes, **more: Any) -> AsyncIterator[VideoQueue]:
    """A service with other encryption keys."""
    update = {"encryption_keys": ring(*keys) if keys else None} | more
    async with VideoQueue(settings.model_copy(update=update)) as queue:
        yield queue


async def row_of(database: Database, job: VideoJob) -> dict[str, Any]:
    async with database.connection() as connection:
        row = await connection.fetchrow("SELECT * FROM video_jobs WHERE id = $1", job.id)
        assert row is not None
        return dict(row)


async def all_texts(database: Database) -> str:
    """Each row of each table."""
    async with database.connection() as connection:
        names = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        )
        return "\n".join(
            [
                row["text"]
                for name in names
                for row in await connection.fetch(
                    f"SELECT one::text AS text FROM {name['tablename']} AS one"  # noqa: S608
                )
            ]
        )


async def rotated(database: Database, vault: Vault) -> int:
    resealed, after = 0, None
    while True:
        step = await prompts.reseal(database, vault, after)
        resealed, after = resealed + step.resealed, step.next
        if after is None:
            return resealed


async def test_who_asks_gets_the_words_back_and_the_database_has_none_of_them(
    queue: VideoQueue, database: Database
) -> None:
    job = await queue.enqueue(REQUEST)

    assert (job.prompt, job.sealed) == (REQUEST.prompt, None)
    assert job.parameters["negative_prompt"] == REQUEST.negative_prompt
    assert await queue.get(job.id) == job
    assert await queue.recent() == [job]
    told = await all_texts(database)
    for secret in (b"planted", PNG):
        assert secret.hex() not in told
    assert "planted" not in told


async def test_what_lists_and_estimates_need_stays_readable(
    queue: VideoQueue, database: Database
) -> None:
    job = await queue.enqueue(REQUEST, metadata={"order": 7}, scene_id="scene-7")

    row = await row_of(database, job)
    assert (row["prompt"], row["scene_id"], row["metadata"]) == ("", "scene-7", '{"order": 7}')
    assert '"seconds"' in row["parameters"]
    assert not any(f'"{word}"' in row["parameters"] for word in prompts.WORDS)


async def test_addresses_of_images_are_sealed_too(queue: VideoQueue, database: Database) -> None:
    job = await queue.enqueue(
        VideoRequest(provider="veo", prompt="a tram", images=(KEPT,), seconds=8)
    )

    assert job.parameters["images"][0]["url"] == KEPT.url  # type: ignore[index,call-overload]
    assert "planted" not in await all_texts(database)


async def test_images_open_for_their_own_place_only(queue: VideoQueue, database: Database) -> None:
    job = await queue.enqueue(REQUEST)
    other = await queue.enqueue(REQUEST)

    async with database.connection() as connection:
        [item] = (await inputs.of_job(connection, job.id)).values()
        [foreign] = (await inputs.of_job(connection, other.id)).values()
    assert await prompts.image_bytes(Vault([OLD]), item) == PNG
    moved = inputs.StoredInput(
        job_id=job.id, position=0, content_type="image/png", data=foreign.data, sealed=True
    )
    with pytest.raises(KeyUnreadableError, match=f"image 0 of job {job.id}"):
        await prompts.image_bytes(Vault([OLD]), moved)


async def test_without_the_key_lists_go_on_and_show_no_prompt(
    settings: Settings, queue: VideoQueue
) -> None:
    job = await queue.enqueue(PLAIN)

    for keys in ((WRONG,), ()):
        async with another(settings, *keys, encrypt_prompts=False) as stranger:
            seen = await stranger.get(job.id)
            assert [each.id for each in await stranger.recent()] == [job.id]
        assert (seen.prompt, seen.sealed is None) == ("", False)
        with pytest.raises(KeyUnreadableError, match=f"prompt of job {job.id}"):
            prompts.opened(Vault(keys), seen)


async def test_an_envelope_that_was_moved_to_another_job_does_not_open(
    queue: VideoQueue, database: Database
) -> None:
    job, other = await queue.enqueue(PLAIN), await queue.enqueue(PLAIN)
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE video_jobs SET sealed = (SELECT sealed FROM video_jobs WHERE id = $2)"
            " WHERE id = $1",
            job.id,
            other.id,
        )

    assert (await queue.get(job.id)).prompt == ""
    assert (await queue.get(other.id)).prompt == PLAIN.prompt


async def test_sealed_and_unsealed_rows_stand_side_by_side(
    settings: Settings, queue: VideoQueue, database: Database
) -> None:
    sealed = await queue.enqueue(PLAIN)
    async with another(settings, OLD, encrypt_prompts=False) as open_handed:
        plain = await open_handed.enqueue(PLAIN)

        assert [job.prompt for job in await open_handed.recent()] == [PLAIN.prompt] * 2
    assert (await row_of(database, plain))["prompt"] == PLAIN.prompt
    assert (await row_of(database, sealed))["prompt"] == ""


# --- equal requests ---


async def test_the_same_key_and_request_give_the_same_job(
    settings: Settings, queue: VideoQueue
) -> None:
    first = await queue.enqueue(REQUEST, idempotency_key="order-7")

    again = await queue.enqueue(REQUEST, idempotency_key="order-7")

    assert again == first
    with pytest.raises(IdempotencyConflictError):
        await queue.enqueue(PLAIN, idempotency_key="order-7")
    for keys, sealing in (((NEW, OLD), True), ((OLD,), False)):
        async with another(settings, *keys, encrypt_prompts=sealing) as other:
            assert (await other.enqueue(REQUEST, idempotency_key="order-7")).id == first.id


async def test_a_request_from_before_the_sealing_is_known_again(
    settings: Settings, queue: VideoQueue
) -> None:
    async with another(settings, OLD, encrypt_prompts=False) as before:
        first = await before.enqueue(PLAIN, idempotency_key="order-7")

    assert (await queue.enqueue(PLAIN, idempotency_key="order-7")).id == first.id


async def test_the_fingerprint_gives_no_prompt_away(
    settings: Settings, queue: VideoQueue, database: Database
) -> None:
    sealed = await queue.enqueue(PLAIN)
    async with another(settings, OLD, encrypt_prompts=False) as open_handed:
        plain = await open_handed.enqueue(PLAIN)
    async with another(settings, NEW) as other_key:
        elsewhere = await other_key.enqueue(PLAIN)

    marks = {(await row_of(database, job))["fingerprint"] for job in (sealed, plain, elsewhere)}
    assert len(marks) == 3


# --- rotation ---


async def test_a_rotation_seals_prompts_and_images_anew(
    settings: Settings,
    queue: VideoQueue,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prompts, "BATCH", 2)
    asked = [
        await queue.enqueue(REQUEST, idempotency_key="order-7"),
        *[await queue.enqueue(PLAIN) for _ in range(4)],
    ]
    both, new = Vault([NEW, OLD]), Vault([NEW])
    before = await prompts.progress(database, both)

    resealed = await rotated(database, both)

    after = await prompts.progress(database, both)
    assert (resealed, before["left"], after["left"]) == (5, 5, 0)
    assert [(each["key_id"], each["prompts"]) for each in after["keys"]] == [(key_id(NEW).hex(), 5)]
    async with another(settings, NEW) as queue:  # the old key is dropped
        assert [(await queue.get(job.id)).prompt for job in asked] == [job.prompt for job in asked]
        assert (await queue.enqueue(REQUEST, idempotency_key="order-7")).id == asked[0].id
    async with database.connection() as connection:
        [item] = (await inputs.of_job(connection, asked[0].id)).values()
    assert await prompts.image_bytes(new, item) == PNG
    assert await rotated(database, both) == 0


async def test_a_rotation_goes_past_what_does_not_open(
    settings: Settings, queue: VideoQueue, database: Database
) -> None:
    broken, whole = await queue.enqueue(PLAIN), await queue.enqueue(PLAIN)
    async with another(settings, WRONG) as foreign:
        await foreign.enqueue(PLAIN)
    async with database.connection() as connection:
        await connection.execute(
            "UPDATE video_jobs SET sealed = sealed || 'x'::bytea WHERE id = $1", broken.id
        )

    resealed = await rotated(database, Vault([NEW, OLD]))

    progress = await prompts.progress(database, Vault([NEW, OLD]))
    assert (resealed, progress["left"], progress["unreadable"]) == (1, 1, 1)
    assert prompts.opened(Vault([NEW]), await _stored(database, whole)).prompt == PLAIN.prompt


async def _stored(database: Database, job: VideoJob) -> VideoJob:
    async with database.connection() as connection:
        found = await jobs.get(connection, job.id)
    assert found is not None
    return found


# --- beside the release before ---


async def test_a_worker_of_the_release_before_cannot_take_a_sealed_job(
    settings: Settings, queue: VideoQueue, database: Database
) -> None:
    sealed = await queue.enqueue(PLAIN)
    async with another(settings, OLD, encrypt_prompts=False) as open_handed:
        plain = await open_handed.enqueue(PLAIN)

    async with database.connection() as connection:
        taken = await connection.fetch(
            """
            UPDATE video_jobs SET status = 'processing', worker_id = $1, due_at = NULL,
                                  lease_epoch = lease_epoch + 1
            WHERE worker_id IS NULL RETURNING id
            """,
            WORKER,
        )
        ours = await jobs.apply(connection, sealed.id, lifecycle.claimed(), worker_id=WORKER)

    assert [row["id"] for row in taken] == [plain.id]
    assert ours.worker_id == WORKER


async def test_what_another_worker_opened_the_release_before_cannot_take_over(
    queue: VideoQueue, database: Database
) -> None:
    job = await queue.enqueue(PLAIN)
    async with database.connection() as connection:
        held = await jobs.apply(connection, job.id, lifecycle.claimed(), worker_id=WORKER)
        await jobs.apply(connection, job.id, lifecycle.released(held, "left"), lease=held.lease)

        taken = await connection.fetch(
            "UPDATE video_jobs SET status = 'processing', due_at = NULL,"
            " worker_id = gen_random_uuid() RETURNING id"
        )
        with pytest.raises(LeaseLostError):
            await jobs.apply(connection, job.id, lifecycle.released(held, "left"), lease=held.lease)

    assert not taken


async def test_what_the_release_before_archives_keeps_no_envelope(
    queue: VideoQueue, database: Database
) -> None:
    job = await queue.enqueue(PLAIN)
    await queue.cancel(job.id)

    async with database.connection() as connection:
        await connection.execute("UPDATE video_jobs SET archived_at = now(), prompt = ''")

    assert (await row_of(database, job))["sealed"] is None


async def test_a_webhook_tells_neither_words_nor_envelope(
    queue: VideoQueue, database: Database
) -> None:
    job = await queue.enqueue(PLAIN, webhook_url="https://93.184.215.14/told")

    await queue.cancel(job.id)

    [delivery] = await queue.deliveries(job.id)
    assert not {"prompt", "parameters", "sealed", "opener_id"} & set(delivery.snapshot)


async def test_a_sealed_job_is_retried_also_by_who_cannot_open_it(
    settings: Settings, queue: VideoQueue
) -> None:
    job = await queue.enqueue(PLAIN)
    await queue.cancel(job.id)

    async with another(settings, WRONG) as stranger:
        retried = await stranger.retry(job.id)

    assert retried.status == "pending"
