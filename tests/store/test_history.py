"""What the past tells."""

import itertools
from datetime import timedelta
from uuid import UUID

import pytest

from tests.builders import a_new_job
from tests.store.conftest import aged, applied, claimed, completed, held, inserted
from vidgen import lifecycle
from vidgen.errors import ContentBlockedError
from vidgen.forecast import kind_of
from vidgen.job import Stage
from vidgen.store import history, jobs
from vidgen.store.pool import Connection


async def test_durations_are_learnt_by_kind_and_found_by_it(connection: Connection) -> None:
    short = await completed(connection, parameters={"seconds": 4, "size": "1280x720"})
    long = await completed(
        connection, parameters={"seconds": 8, "aspect_ratio": "16:9", "resolution": "720p"}
    )
    await connection.execute(
        "UPDATE video_jobs SET submitted_at = generated_at - interval '40 seconds' WHERE id = $1",
        short.id,
    )

    assert await history.learn(connection) == 2
    await history.learn(connection)

    learnt = await history.durations(connection)
    assert learnt[kind_of(short)].generated_p50 == pytest.approx(40)
    assert learnt[kind_of(short)].samples == 1
    assert kind_of(long) in learnt


async def test_of_one_kind_only_the_newest_teach(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LEARNT_PER_KIND", 2)
    same = [await completed(connection, parameters={"seconds": 4}) for _ in range(3)]
    for job, age, time_s in zip(same, (3, 2, 1), (500, 40, 60), strict=True):
        await aged(connection, job, "completed_at", timedelta(minutes=age))
        await connection.execute(
            "UPDATE video_jobs SET submitted_at = generated_at - make_interval(secs => $2)"
            " WHERE id = $1",
            job.id,
            time_s,
        )
    other = await completed(connection, parameters={"seconds": 8})

    await history.learn(connection)

    learnt = await history.durations(connection)
    assert learnt[kind_of(same[0])].samples == 2
    assert learnt[kind_of(same[0])].generated_p50 == pytest.approx(50)
    assert kind_of(other) in learnt


async def test_old_videos_teach_nothing(connection: Connection) -> None:
    job = await completed(connection)
    await aged(connection, job, "completed_at", timedelta(days=8))

    assert await history.learn(connection) == 0


async def test_places_of_a_user_go_by_priority_and_waiting_time(connection: Connection) -> None:
    old = await inserted(connection)
    await aged(connection, old, "due_at", timedelta(minutes=15))
    new = await inserted(connection)
    urgent = await inserted(connection, priority=1)
    other = await inserted(connection, provider="veo", priority=9)
    await claimed(connection, await inserted(connection))

    places = await history.places(
        connection, [job.id for job in (old, new, urgent, other)], head_start_s=600
    )

    assert [places[job.id].position for job in (other, urgent, old, new)] == [1, 2, 3, 4]
    assert [places[job.id].same_provider for job in (other, urgent, old, new)] == [1, 1, 2, 3]


async def test_users_share_the_places_by_seconds_of_video(connection: Connection) -> None:
    async def asked(user_id: str, seconds: int | None, jobs: int) -> list[UUID]:
        wish = {"user_id": user_id, "parameters": {"seconds": seconds}}
        return [(await inserted(connection, **wish)).id for _ in range(jobs)]

    usual, long, short = await asked("ada", None, 6), await asked("bob", 16, 3), []
    short = await asked("cid", 4, 4)
    ids = [*usual, *long, *short]
    # One that is paid for, and that nobody holds, goes before all of them.
    paid = await held(connection, Stage.GENERATING)
    await connection.execute(
        "UPDATE video_jobs SET worker_id = NULL, due_at = now() WHERE id = $1", paid.id
    )

    places = await history.places(connection, ids, head_start_s=600)

    whose = dict.fromkeys(usual, "a") | dict.fromkeys(long, "b") | dict.fromkeys(short, "c")
    order = sorted(places, key=lambda id_: places[id_].position)
    assert "".join(whose[id_] for id_ in order) == "abccaccabaaba"
    assert [places[id_].position for id_ in order] == list(range(2, 15))


async def test_who_does_not_wait_has_no_place(connection: Connection) -> None:
    job = await held(connection, Stage.GENERATING)

    assert await history.places(connection, [job.id], head_start_s=600) == {}


async def test_buckets_have_no_gap_and_count_what_ended(connection: Connection) -> None:
    job = await completed(connection)
    await aged(connection, job, "completed_at", timedelta(minutes=30))
    await completed(connection)

    buckets = await history.buckets(connection, hours=1, bucket_s=300)

    assert 12 <= len(buckets) <= 14
    assert sum(bucket.completed for bucket in buckets) == 2
    starts = [bucket.at.timestamp() for bucket in buckets]
    assert {after - before for before, after in itertools.pairwise(starts)} == {300.0}


async def test_failed_jobs_are_grouped_by_reason(connection: Connection) -> None:
    for _ in range(2):
        job = await held(connection, Stage.GENERATING)
        await applied(connection, job, lifecycle.failed(job, ContentBlockedError("no")))

    [group] = await history.failed_groups(connection)

    assert (group.code, group.provider, group.jobs) == ("content_blocked", "sora", 2)


async def test_the_spend_of_the_day_tells_what_was_wasted(connection: Connection) -> None:
    await completed(connection)
    await jobs.insert(connection, [a_new_job()])

    spend = await history.spend_today(connection)

    assert spend.spend_micros == 800_000
    assert spend.waste_micros == 0
