"""Who is forgotten leaves nothing, who is not keeps everything, and old results go."""

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import SecretStr

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, VEO, a_rule, quick
from vidgen import InputImage, JobStatus, VideoJob, VideoRequest, keys
from vidgen.errors import InvalidRequestError, JobNotFoundError, StorageError
from vidgen.job import Operation, Stage
from vidgen.pipeline import erasure as erasing
from vidgen.pipeline import receipts
from vidgen.settings import Settings
from vidgen.simulator.s3 import S3Server
from vidgen.simulator.s3.server import Fault
from vidgen.simulator.server import SimulatorServer
from vidgen.store import erasure, events, steering
from vidgen.store.erasure import Traces
from vidgen.testing.provider_wire import an_image

__all__ = ["quick"]

NOTHING = Traces(
    jobs=0,
    running=0,
    paid=0,
    paid_micros=0,
    videos=0,
    events=0,
    deliveries=0,
    inputs=0,
    keys=0,
    asked_at=None,
)
PNG = an_image().data
NO_DELETES = Fault(operation="DeleteObject", times=None, status=403, code="AccessDenied")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    ring = SecretStr(base64.b64encode(bytes(range(32))).decode())
    return settings.model_copy(update={"encryption_key": ring})


async def made(
    carrier: Carrier, user_id: str, request: VideoRequest = SORA, **more: Any
) -> VideoJob:
    return await carrier.finish(await carrier.queue.enqueue(request, user_id=user_id, **more))


async def bring(carrier: Carrier, user_id: str) -> None:
    resources = carrier.resources
    async with resources.database.connection() as connection:
        await keys.add(connection, resources.vault, user_id, keys.check("sora", f"sk-x@{user_id}"))


async def erase(carrier: Carrier) -> None:
    """What workers do every few seconds."""
    async with carrier.resources.database.connection() as connection:
        wanted = await erasure.asked(connection)
    await erasing.erase(carrier.resources, carrier.leases, wanted)


async def seen(carrier: Carrier, user_id: str) -> Traces:
    return await carrier.queue.forget(user_id, dry_run=True)


async def objects(carrier: Carrier) -> list[str]:
    storage = carrier.resources.storage
    return [key for prefix in ("videos/", "receipts/") for key in await storage.keys(prefix, 1000)]


async def rows(carrier: Carrier) -> str:
    async with carrier.resources.database.connection() as connection:
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


async def test_all_there_is_of_a_user_goes_and_others_keep_theirs(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    for user_id in ("planted-alice", "bob"):
        await bring(carrier, user_id)
        await made(carrier, user_id, webhook_url="http://127.0.0.1:9/told")
        image = InputImage(role="first_frame", data=PNG)
        pictured = VideoRequest(provider="veo", prompt="a tram", seconds=8, images=(image,))
        await made(carrier, user_id, pictured, scene_id=f"scene of {user_id}")
        simulator.sora.script(a_rule("submit 400", times=1))
        failed = await made(carrier, user_id)
        assert failed.status is JobStatus.FAILED
    before, of_bob = await seen(carrier, "planted-alice"), await seen(carrier, "bob")

    told = await carrier.queue.forget("planted-alice")
    await erase(carrier)

    assert (told.jobs, told.running, told.videos, told.deliveries) == (3, 0, 2, 1)
    assert (told.inputs, told.keys, told.paid) == (1, 1, 0)
    assert before.asked_at is None
    assert told.asked_at is not None
    assert await seen(carrier, "planted-alice") == NOTHING
    assert await seen(carrier, "bob") == of_bob
    assert "planted" not in await rows(carrier)
    kept = await carrier.queue.recent(user_id="bob")
    assert sorted(await objects(carrier)) == sorted(
        key
        for job in kept
        for key in (job.storage_key, job.thumbnail_key, job.spritesheet_key)
        if key
    )


async def test_a_dry_run_counts_and_does_nothing(carrier: Carrier) -> None:
    job = await made(carrier, "alice")

    first, second = await seen(carrier, "alice"), await seen(carrier, "alice")
    await erase(carrier)

    assert first == second
    assert (first.jobs, first.videos, first.asked_at) == (1, 1, None)
    assert await carrier.queue.get(job.id) == job


async def test_nobody_known_is_forgotten_at_once(carrier: Carrier) -> None:
    told = await carrier.queue.forget("nobody")
    await erase(carrier)

    assert told.jobs == 0
    assert await seen(carrier, "nobody") == NOTHING
    with pytest.raises(InvalidRequestError):
        await carrier.queue.forget("")


# --- what still runs ---


async def test_a_job_that_waits_is_cancelled_and_costs_nothing(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    job = await carrier.queue.enqueue(SORA, user_id="alice")

    told = await carrier.queue.forget("alice")

    cancelled = await carrier.queue.get(job.id)
    assert (told.running, told.paid) == (1, 0)
    assert (cancelled.status, cancelled.actual_cost_micros) == (JobStatus.CANCELLED, 0)
    await erase(carrier)
    assert await seen(carrier, "alice") == NOTHING
    assert not simulator.sora.bill


async def test_a_video_that_is_being_made_ends_first_and_its_money_is_told(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 30
    job = await carrier.queue.enqueue(SORA, user_id="alice")
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.finish(job))
        await simulator.sora.arrived("poll")

        told = await carrier.queue.forget("alice")
        await erase(carrier)

        left = await seen(carrier, "alice")
        await carrying
    await erase(carrier)

    assert (told.running, told.paid, told.paid_micros) == (1, 1, job.estimated_cost_micros)
    assert left.jobs == 1
    assert left.asked_at is not None
    assert carrying.result().status is JobStatus.CANCELLED
    assert len(simulator.sora.of("cancel")) == 1
    assert await seen(carrier, "alice") == NOTHING


async def test_a_finished_video_that_waits_for_its_transfer_is_thrown_away(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("content 503", times=2))
    job = await carrier.carry(await carrier.queue.enqueue(SORA, user_id="alice"))
    assert job.stage is Stage.TRANSFERRING

    await carrier.queue.forget("alice")
    done = await carrier.finish(await carrier.queue.get(job.id))
    await erase(carrier)

    assert done.status is JobStatus.CANCELLED
    assert await seen(carrier, "alice") == NOTHING
    assert await objects(carrier) == []


async def test_workers_cancel_what_whoever_asked_did_not_get_to(carrier: Carrier) -> None:
    job = await carrier.queue.enqueue(SORA, user_id="alice")
    async with carrier.resources.database.connection() as connection:
        await erasure.ask(connection, "alice")  # and died

    await erase(carrier)

    with pytest.raises(JobNotFoundError):
        await carrier.queue.get(job.id)


async def test_a_key_is_kept_until_the_job_it_began_has_ended_and_begins_no_other(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    await bring(carrier, "alice")
    simulator.sora.script(a_rule("poll 503", times=3))
    job = await carrier.carry(await carrier.queue.enqueue(SORA, user_id="alice"))
    assert job.stage is Stage.GENERATING

    await carrier.queue.forget("alice")
    later = await carrier.carry(await carrier.queue.enqueue(SORA, user_id="alice"))
    await erase(carrier)
    kept = await seen(carrier, "alice")
    await carrier.finish(await carrier.queue.get(job.id))
    await erase(carrier)

    assert later.credential_id == "server"
    assert kept.keys == 1
    assert {request.headers["authorization"] for request in simulator.sora.of("cancel")} == {
        "Bearer sk-x@alice"
    }
    left = await seen(carrier, "alice")
    assert (left.keys, left.jobs, left.asked_at) == (0, 1, None)  # what came afterwards stays


# --- again and again ---


async def test_a_bucket_that_deletes_nothing_keeps_the_rows_until_it_does(
    carrier: Carrier, s3: S3Server
) -> None:
    job = await made(carrier, "alice")
    await carrier.queue.forget("alice")

    s3.faults.append(NO_DELETES)
    with pytest.raises(StorageError):
        await erase(carrier)
    s3.faults.clear()

    assert await carrier.queue.get(job.id) == job
    await erase(carrier)
    assert await seen(carrier, "alice") == NOTHING
    assert await objects(carrier) == []


async def test_who_dies_between_objects_and_rows_leaves_what_the_next_one_finds(
    carrier: Carrier,
) -> None:
    job = await made(carrier, "alice")
    await carrier.queue.forget("alice")
    assert job.storage_key is not None
    await carrier.resources.storage.delete(job.storage_key)  # and died

    await erase(carrier)

    assert await seen(carrier, "alice") == NOTHING


async def test_objects_that_no_row_names_go_too(carrier: Carrier) -> None:
    job = await made(carrier, "alice")
    operation = job.operation
    assert isinstance(operation, Operation)
    await receipts.keep(carrier.resources, job.id, 1, operation)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"a video whose note was lost"

    await carrier.resources.storage.upload(
        f"videos/{job.id}/9.mp4", chunks(), content_type="video/mp4"
    )
    await carrier.queue.forget("alice")

    await erase(carrier)

    assert await objects(carrier) == []


async def test_many_jobs_go_in_batches(carrier: Carrier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasing, "BATCH", 3)
    await carrier.queue.enqueue_many([SORA] * 10, user_id="alice")
    async with carrier.resources.database.connection() as connection:
        await erasure.ask(connection, "alice")

    await erase(carrier)

    assert await seen(carrier, "alice") == NOTHING


async def test_archived_jobs_go_too(carrier: Carrier) -> None:
    job = await carrier.queue.enqueue(SORA, user_id="alice")
    await carrier.queue.cancel(job.id)
    async with carrier.resources.database.connection() as connection:
        await connection.execute("UPDATE video_jobs SET archived_at = now(), prompt = ''")

    await carrier.queue.forget("alice")
    await erase(carrier)

    assert await seen(carrier, "alice") == NOTHING


async def test_a_forgotten_video_is_nobody_else_s_lost_one(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    gone = await made(carrier, "alice")
    assert gone.operation is not None
    simulator.sora.script(a_rule("submit accept-then-disconnect", times=1))
    unsettled = await carrier.carry(await carrier.queue.enqueue(SORA, user_id="bob"))
    assert unsettled.stage is Stage.SUBMITTING

    await carrier.queue.forget("alice")
    await erase(carrier)
    done = await carrier.finish(unsettled)

    assert done.operation is not None
    assert done.operation.id != gone.operation.id
    assert (done.status, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 2)
    async with carrier.resources.database.connection() as connection:
        taken = await events.taken_operations(
            connection, gone.operation.endpoint, [gone.operation.id]
        )
    assert taken == {gone.operation.id}


async def test_the_record_of_actions_keeps_what_was_done_and_no_name(carrier: Carrier) -> None:
    async with carrier.resources.database.connection() as connection:
        by = {"who": "admin", "role": "operate", "address": "cli"}
        await steering.note(connection, **by, action="key_add", target="alice", detail={})
        await steering.note(
            connection,
            **by,
            action="retry_failed",
            target="",
            detail={"user_id": "alice", "anew": True},
        )
        await steering.note(connection, **by, action="key_add", target="alice2", detail={})

    await carrier.queue.forget("alice")
    await erase(carrier)

    async with carrier.resources.database.connection() as connection:
        told = await steering.entries(connection, before=None, limit=9)
    name = erasure.pseudonym("alice")
    assert [(entry.target, dict(entry.detail)) for entry in told] == [
        ("alice2", {}),
        ("", {"user_id": name, "anew": True}),
        (name, {}),
    ]


async def test_a_worker_does_it_by_itself(carrier: Carrier) -> None:
    await made(carrier, "alice")
    await carrier.queue.forget("alice")

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        running = group.create_task(erasing.run(carrier.resources, carrier.leases))
        while (await seen(carrier, "alice")).asked_at:  # noqa: ASYNC110  a row tells nobody
            await asyncio.sleep(0.01)
        running.cancel()

    assert await seen(carrier, "alice") == NOTHING


# --- results that are old ---


def keep_results(carrier: Carrier, days: int) -> None:
    settings = carrier.resources.settings.model_copy(update={"result_retention_days": days})
    object.__setattr__(carrier.resources, "settings", settings)


async def aged(carrier: Carrier, job: VideoJob, days: int) -> None:
    async with carrier.resources.database.connection() as connection:
        await connection.execute(
            "UPDATE video_jobs SET completed_at = now() - make_interval(days => $2) WHERE id = $1",
            job.id,
            days,
        )


async def test_old_results_go_with_their_words_and_a_summary_stays(carrier: Carrier) -> None:
    keep_results(carrier, 30)
    old, young = await made(carrier, "alice"), await made(carrier, "alice", VEO)
    await aged(carrier, old, 31)
    await aged(carrier, young, 29)

    await erasing.expire_results(carrier.resources)

    kept = await carrier.queue.get(old.id)
    assert (kept.status, kept.prompt, kept.parameters) == (JobStatus.COMPLETED, "", {})
    assert kept.archived_at is not None
    assert (kept.sha256, kept.actual_cost_micros) == (old.sha256, old.actual_cost_micros)
    assert await carrier.queue.history(old.id) == []
    assert [job.id for job in await carrier.queue.recent()] == [young.id]
    assert all(str(young.id) in key for key in await objects(carrier))
    assert await objects(carrier)


async def test_a_worker_lets_old_results_go_by_itself(carrier: Carrier) -> None:
    keep_results(carrier, 30)
    job = await made(carrier, "alice")
    await aged(carrier, job, 31)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        running = group.create_task(erasing.run(carrier.resources, carrier.leases))
        while (await carrier.queue.get(job.id)).archived_at is None:  # noqa: ASYNC110  a row tells nobody
            await asyncio.sleep(0.01)
        running.cancel()

    assert await objects(carrier) == []


async def test_results_are_kept_for_ever_unless_somebody_says_for_how_long(
    carrier: Carrier,
) -> None:
    job = await made(carrier, "alice")
    await aged(carrier, job, 3650)

    await erasing.expire_results(carrier.resources)

    assert [each.id for each in await carrier.queue.recent()] == [job.id]
    assert await objects(carrier)


async def test_a_result_whose_file_cannot_be_deleted_stays_a_result(
    carrier: Carrier, s3: S3Server
) -> None:
    keep_results(carrier, 1)
    job = await made(carrier, "alice")
    await aged(carrier, job, 2)

    s3.faults.append(NO_DELETES)
    with pytest.raises(StorageError):
        await erasing.expire_results(carrier.resources)
    s3.faults.clear()

    assert (await carrier.queue.get(job.id)).archived_at is None
    await erasing.expire_results(carrier.resources)
    assert (await carrier.queue.get(job.id)).archived_at is not None
