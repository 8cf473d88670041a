"""Real rows in every stage."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tests.builders import WORKER, a_new_job, a_video, an_operation
from vidgen import lifecycle
from vidgen.job import JobEvent, Operation, Stage, VideoJob
from vidgen.lifecycle import Transition
from vidgen.store import events, jobs
from vidgen.store.pool import Connection, Database, connect


@pytest.fixture
async def connection(
    emptied_database_url: str,
) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    async with connect(emptied_database_url) as connection:
        yield connection


@pytest.fixture
async def database(emptied_database_url: str) -> AsyncIterator[Database]:
    async with Database(emptied_database_url, size=30) as database:
        yield database


async def inserted(connection: Connection, **changes: Any) -> VideoJob:
    [job] = await jobs.insert(connection, [a_new_job(**changes)])
    return job


async def claimed(connection: Connection, job: VideoJob, worker_id: UUID = WORKER) -> VideoJob:
    return await jobs.apply(connection, job.id, lifecycle.claimed(), worker_id=worker_id)


async def held(connection: Connection, stage: Stage = Stage.QUEUED, **changes: Any) -> VideoJob:
    """A job that WORKER holds in *stage*, brought there by the way every job goes."""
    job = await claimed(connection, await inserted(connection, **changes))
    if stage is Stage.QUEUED:
        return job
    job = await applied(connection, job, lifecycle.submitting(job))
    if stage is Stage.SUBMITTING:
        return job
    receipt = lifecycle.submitted(job.attempt, an_operation_of(job))
    job = await applied(connection, job, receipt)
    if stage is Stage.GENERATING:
        return job
    return await applied(
        connection, job, lifecycle.generated(job, expires_at=None, cost_micros=None)
    )


def an_operation_of(job: VideoJob) -> Operation:
    """What no other job has."""
    return an_operation(f"of_{job.id}")


async def completed(connection: Connection, **changes: Any) -> VideoJob:
    job = await held(connection, Stage.TRANSFERRING, **changes)
    return await applied(connection, job, lifecycle.completed(job, a_video()))


async def applied(connection: Connection, job: VideoJob, change: Transition) -> VideoJob:
    """*job* after *change*, written by its holder, if it has one."""
    lease = job.lease if job.worker_id else None
    return await jobs.apply(connection, job.id, change, lease=lease)


async def history(connection: Connection, job: VideoJob) -> list[JobEvent]:
    return await events.of_job(connection, job.id)


async def aged(connection: Connection, job: VideoJob, column: str, age: timedelta) -> None:
    """Move a point in time of *job* into the past, as if *age* had gone by."""
    assert column in {"due_at", "completed_at"}
    await connection.execute(
        f"UPDATE video_jobs SET {column} = now() - $2::interval WHERE id = $1",  # noqa: S608
        job.id,
        age,
    )
