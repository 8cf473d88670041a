"""The figures of the queue, and that they stay cheap."""

import json
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.builders import WORKER, a_new_job, a_worker, an_operation
from vidgen import lifecycle
from vidgen.errors import InternalError
from vidgen.job import VideoJob
from vidgen.lifecycle import Transition
from vidgen.store import figures as module
from vidgen.store import jobs, steering, workers
from vidgen.store.figures import figures
from vidgen.store.pool import Connection, Database

TTL_S = 15.0
MANY_THAT_ENDED = """
    INSERT INTO video_jobs (
        id, status, stage, provider, model, prompt, fingerprint, attempt, max_attempts, deadline_s,
        due_at, intent_at, submitted_at, generated_at, completed_at, archived_at, operation,
        storage_key, sha256, size_bytes, progress, error_code, error_message
    )
    SELECT gen_random_uuid(), CASE WHEN n % 20 = 0 THEN 'failed' ELSE 'completed' END,
           'transferring', 'sora', 'sora-2', repeat('a tram ', 20), 'f', 1, 3, 1800, NULL, now(),
           now(), now(), now(), CASE WHEN n % 20 = 0 AND n % 100 > 0 THEN now() END, '{}', 'key',
           repeat('ab', 32), 1000, 100, 'internal_error', 'a defect'
    FROM generate_series(1, 5000) AS n
"""


@pytest.fixture
async def connection(emptied_database_url: str) -> AsyncIterator[Connection]:
    async with Database(emptied_database_url) as database, database.connection() as connection:
        yield connection


async def a_stored_job(
    connection: Connection, provider: str = "sora", **changes: object
) -> VideoJob:
    [job] = await jobs.insert(connection, [a_new_job(provider=provider, **changes)])
    return job


async def write(connection: Connection, job: VideoJob, change: Transition) -> VideoJob:
    lease = job.lease if job.worker_id else None
    return await jobs.apply(connection, job.id, change, lease=lease, worker_id=WORKER)


async def a_generating_job(connection: Connection, provider: str = "sora") -> VideoJob:
    job = await a_stored_job(connection, provider)
    job = await write(connection, job, lifecycle.claimed())
    job = await write(connection, job, lifecycle.submitting(job))
    return await write(connection, job, lifecycle.submitted(1, an_operation(str(job.id))))


async def a_failed_job(connection: Connection) -> VideoJob:
    job = await write(connection, await a_stored_job(connection), lifecycle.claimed())
    return await write(connection, job, lifecycle.failed(job, InternalError("a defect")))


async def test_an_empty_queue_has_no_figures(connection: Connection) -> None:
    found = await figures(connection, TTL_S)

    assert (found.jobs, found.oldest_s, found.workers) == ({}, 0.0, 0)
    assert (found.webhooks, found.paused) == (0, frozenset())


async def test_jobs_are_counted_by_where_they_are_and_whose_they_are(
    connection: Connection,
) -> None:
    now = await connection.fetchval("SELECT now()")
    await a_stored_job(connection)
    await a_stored_job(connection, "veo")
    await a_stored_job(connection, "veo")
    await a_stored_job(connection, run_at=now + timedelta(hours=1))
    await a_generating_job(connection)
    given_back = await a_generating_job(connection)
    await write(connection, given_back, lifecycle.released(given_back, "hand_over"))
    await a_failed_job(connection)

    found = await figures(connection, TTL_S)

    assert found.jobs == {
        ("waiting", "sora"): 1,
        ("waiting", "veo"): 2,
        ("delayed", "sora"): 1,
        ("active", "sora"): 2,
        ("failed", "sora"): 1,
    }


async def test_archived_and_cancelled_jobs_are_left_out(connection: Connection) -> None:
    await a_failed_job(connection)
    await jobs.archive_ended(connection, timedelta(0), 10)
    job = await a_stored_job(connection)
    await write(connection, job, lifecycle.cancelled(job, held=False, stopped_at_provider=False))

    assert (await figures(connection, TTL_S)).jobs == {}


async def test_the_longest_wait_is_told_in_seconds(connection: Connection) -> None:
    now = await connection.fetchval("SELECT now()")
    await a_stored_job(connection, run_at=now - timedelta(seconds=90))
    await a_stored_job(connection, run_at=now + timedelta(hours=1))

    assert (await figures(connection, TTL_S)).oldest_s == pytest.approx(90, abs=10)


async def test_what_a_pause_holds_back_waits_for_nobody(connection: Connection) -> None:
    now = await connection.fetchval("SELECT now()")
    await a_stored_job(connection, run_at=now - timedelta(seconds=900))
    await a_stored_job(connection, "veo", run_at=now - timedelta(seconds=90))
    await steering.pause(connection, "sora", "somebody", "")

    try:
        found = await figures(connection, TTL_S)
    finally:  # the database is shared
        await steering.resume(connection, "sora")

    assert found.oldest_s == pytest.approx(90, abs=10)
    assert found.jobs["waiting", "sora"] == 1


async def test_only_workers_with_a_fresh_heartbeat_are_alive(connection: Connection) -> None:
    for number in (1, 2):
        await workers.heartbeat(connection, a_worker(number))
    await connection.execute(
        "UPDATE workers SET heartbeat_at = now() - interval '1 minute' WHERE pid = 2"
    )

    assert (await figures(connection, TTL_S)).workers == 1


async def test_webhooks_to_be_delivered_are_counted(connection: Connection) -> None:
    job = await a_stored_job(connection, webhook_url="https://receiver.test/hook")
    await write(connection, job, lifecycle.cancelled(job, held=False, stopped_at_provider=False))

    assert (await figures(connection, TTL_S)).webhooks == 1


async def test_pauses_are_told(connection: Connection) -> None:
    await steering.pause(connection, "sora", "somebody", "a bill to look at")

    try:
        assert (await figures(connection, TTL_S)).paused == {"sora"}
    finally:  # the database is shared
        await steering.resume(connection, "sora")


async def test_counting_stops_where_it_tells_nothing_more(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await jobs.insert(connection, [a_new_job() for _ in range(20)])
    monkeypatch.setattr(module, "COUNTED_AT_MOST", 10)

    assert (await figures(connection, TTL_S)).jobs == {("waiting", "sora"): 10}


async def test_completed_rows_are_never_looked_at(connection: Connection) -> None:
    statement = await captured(connection)
    await connection.execute(MANY_THAT_ENDED)
    await connection.execute("ANALYZE video_jobs")
    plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", TTL_S, 20_000)

    looks = [
        node
        for node in nodes(json.loads(plan)[0]["Plan"])
        if str(node.get("Relation Name", node.get("Index Name"))).startswith("video_jobs")
    ]
    used = {node["Index Name"] for node in looks if "Index Name" in node}
    read = {node["Node Type"] for node in looks}
    # Of tables that are empty the planner may read all: who has analyzed them decides.
    assert used - {"video_jobs_pkey"} == {"video_jobs_due", "video_jobs_held", "video_jobs_kept"}
    assert "Seq Scan" not in read


async def captured(connection: Connection) -> str:
    """The statement as it is sent."""
    sent: list[str] = []

    class Listener:
        async def fetch(self, statement: str, *_: object) -> list[dict[str, object]]:
            sent.append(statement)
            return [
                {"status": "oldest", "provider": None, "jobs": 0},
                {"status": "workers", "provider": None, "jobs": 0},
                {"status": "webhooks", "provider": None, "jobs": 0},
            ]

    await figures(Listener(), TTL_S)  # type: ignore[arg-type]  # all it is asked for
    return sent[0]


def nodes(plan: dict[str, object]) -> list[dict[str, object]]:
    below = plan.get("Plans", [])
    assert isinstance(below, list)
    return [plan, *(node for child in below for node in nodes(child))]
