"""What the code promises of a row, PostgreSQL refuses to break: each CHECK, violated on purpose."""

import asyncpg
import pytest

from tests.store.conftest import completed, held, inserted
from vidgen.job import Stage
from vidgen.store.pool import Connection

FAILED = "status = 'failed', worker_id = NULL, completed_at = now()"

# In which state, by which change, which promise is broken.
BROKEN = [
    ("pending", "status = 'lost', due_at = NULL", "video_jobs_status_check"),
    ("queued", "stage = 'waiting', attempt = 1, intent_at = now()", "video_jobs_stage_check"),
    ("pending", "priority = 10", "video_jobs_priority_check"),
    ("pending", "priority = -1", "video_jobs_priority_check"),
    ("pending", "attempt = -1", "video_jobs_attempt_check"),
    ("pending", "max_attempts = 0", "video_jobs_max_attempts_check"),
    ("pending", "failures = -1", "video_jobs_failures_check"),
    ("pending", "progress = 101", "video_jobs_progress_check"),
    ("pending", "progress = -1", "video_jobs_progress_check"),
    ("pending", "size_bytes = 0", "video_jobs_size_bytes_check"),
    ("pending", "sha256 = 'ABC'", "video_jobs_sha256_check"),
    ("pending", "estimated_cost_micros = -1", "video_jobs_estimated_cost_micros_check"),
    ("pending", "actual_cost_micros = -1", "video_jobs_actual_cost_micros_check"),
    ("pending", "deadline_s = 0", "video_jobs_deadline_s_check"),
    ("pending", "stage = 'submitting', attempt = 1, intent_at = now()", "pending_is_queued"),
    ("queued", "status = 'cancelled', completed_at = now()", "only_processing_is_leased"),
    ("pending", "due_at = NULL", "unheld_is_due"),
    ("queued", "worker_id = NULL", "unheld_is_due"),
    ("queued", "due_at = now()", "unheld_is_due"),
    ("completed", "due_at = now()", "unheld_is_due"),
    ("completed", "completed_at = NULL", "final_has_an_end"),
    ("queued", "completed_at = now()", "final_has_an_end"),
    ("queued", "stage = 'submitting'", "intent_counts_an_attempt"),
    ("submitting", "intent_at = NULL", "intent_counts_an_attempt"),
    ("submitting", "stage = 'generating'", "generating_has_an_operation"),
    ("generating", "operation = NULL", "generating_has_an_operation"),
    ("generating", "submitted_at = NULL", "generating_has_an_operation"),
    ("generating", "stage = 'transferring'", "transferring_was_generated"),
    ("completed", "storage_key = NULL", "completed_has_a_video"),
    ("completed", "sha256 = NULL", "completed_has_a_video"),
    ("completed", "size_bytes = NULL", "completed_has_a_video"),
    ("completed", "progress = 99", "completed_has_a_video"),
    ("completed", "stage = 'generating'", "completed_has_a_video"),
    ("queued", f"{FAILED}, error_code = 'x'", "failed_has_a_reason"),
    ("queued", f"{FAILED}, error_message = 'x'", "failed_has_a_reason"),
    ("pending", "target = 1", "target_is_one_of_them"),
    ("pending", "target = -1", "target_is_one_of_them"),
    ("pending", "max_cost_micros = 0", "ceiling_is_positive"),
]


async def test_a_row_that_breaks_a_promise_is_refused(connection: Connection) -> None:
    rows = {stage.value: await held(connection, stage) for stage in Stage}
    rows |= {"pending": await inserted(connection), "completed": await completed(connection)}

    refused = [
        (state, change, await violated(connection, f"{change} WHERE id = '{rows[state].id}'"))
        for state, change, _ in BROKEN
    ]

    assert refused == BROKEN


async def violated(connection: Connection, change: str) -> str:
    """The name of the CHECK that refuses *change*."""
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await connection.execute(f"UPDATE video_jobs SET {change}")  # noqa: S608  our own words
    return str(refused.value.constraint_name)


async def test_every_check_is_violated_above(connection: Connection) -> None:
    rows = await connection.fetch(
        """
        SELECT conname FROM pg_constraint
        WHERE contype = 'c' AND conrelid = 'video_jobs'::regclass
        """
    )

    assert {row["conname"] for row in rows} == {check for _, _, check in BROKEN}


async def test_a_deleted_job_takes_its_events_along(connection: Connection) -> None:
    job = await inserted(connection)

    await connection.execute("DELETE FROM video_jobs WHERE id = $1", job.id)

    assert await connection.fetchval("SELECT count(*) FROM job_events") == 0
