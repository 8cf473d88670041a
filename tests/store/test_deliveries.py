"""The outbox of webhooks: written with the end of a job, taken by one worker at a time."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from uuid_utils.compat import uuid7

from tests.store.conftest import aged, applied, completed, held, history, inserted
from vidgen import lifecycle
from vidgen.document import PRIVATE
from vidgen.errors import InternalError, LeaseLostError
from vidgen.job import EventType, Stage, VideoJob
from vidgen.store import deliveries, jobs
from vidgen.store.deliveries import Delivery, DeliveryState, Outcome
from vidgen.store.pool import Connection, Database
from vidgen.webhook import WebhookType

URL = "https://me.test/hook"
DAY = timedelta(days=1)
NOTHING: Mapping[str, int] = {}
DELIVERED = Outcome(state=DeliveryState.DELIVERED, status=204, error=None)
REFUSED = Outcome(state=DeliveryState.PENDING, status=500, error="no", wait_s=300)
FAILED = Outcome(state=DeliveryState.FAILED, status=None, error="never")
GONE = Outcome(state=DeliveryState.GONE, status=410, error="gone")


async def failed(connection: Connection, **changes: Any) -> VideoJob:
    job = await held(connection, **changes)
    return await applied(connection, job, lifecycle.failed(job, InternalError("a defect")))


async def waiting(connection: Connection, url: str = URL, **changes: Any) -> Delivery:
    """A delivery that is due."""
    job = await completed(connection, webhook_url=url, **changes)
    [delivery] = await deliveries.recent(connection, job_id=job.id)
    return delivery


async def claim(
    connection: Connection,
    *,
    limit: int = 100,
    per_host: int = 100,
    sending: Mapping[str, int] = NOTHING,
    lease_s: float = 60,
) -> list[Delivery]:
    return await deliveries.claim(
        connection, limit=limit, per_host=per_host, sending=sending, lease_s=lease_s
    )


async def due_now(connection: Connection, delivery: Delivery) -> None:
    """Let the time until the next try go by."""
    await connection.execute(
        "UPDATE webhook_deliveries SET next_at = now() WHERE id = $1", delivery.id
    )


async def again(connection: Connection, delivery: Delivery) -> Delivery:
    found = await deliveries.get(connection, delivery.id)
    assert found is not None
    return found


# --- written with the transition ---


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "cancelled in the queue"])
async def test_the_end_of_a_job_with_a_webhook_is_to_be_told(
    connection: Connection, end: str
) -> None:
    if end == "completed":
        job = await completed(connection, webhook_url=URL)
    elif end == "failed":
        job = await failed(connection, webhook_url=URL)
    else:
        in_queue = end != "cancelled"
        job = await (inserted if in_queue else held)(connection, webhook_url=URL)
        change = lifecycle.cancelled(job, held=not in_queue, stopped_at_provider=False)
        job = await applied(connection, job, change)

    [delivery] = await deliveries.recent(connection)
    last = (await history(connection, job))[-1]

    assert delivery.type is WebhookType(f"video.{job.status}")
    assert (delivery.job_id, delivery.event_seq, delivery.url) == (job.id, last.seq, URL)
    assert (delivery.state, delivery.attempts) == (DeliveryState.PENDING, 0)
    assert delivery.next_at == delivery.created_at == job.completed_at


async def test_nothing_else_is_told(connection: Connection) -> None:
    await completed(connection)
    job = await held(connection, Stage.GENERATING, webhook_url=URL)
    await applied(connection, job, lifecycle.cancel_requested(discard=False))
    await applied(connection, job, lifecycle.released(job, "hand_over"))

    assert await deliveries.recent(connection) == []


async def test_a_transition_that_is_refused_tells_nothing(connection: Connection) -> None:
    job = await held(connection, Stage.TRANSFERRING, webhook_url=URL)
    ended = lifecycle.failed(job, InternalError("a defect"))
    await applied(connection, job, ended)

    with pytest.raises(LeaseLostError):
        await applied(connection, job, ended)

    assert len(await deliveries.recent(connection)) == 1


async def test_a_job_that_ends_twice_is_told_twice(connection: Connection) -> None:
    job = await failed(connection, webhook_url=URL)
    job = await jobs.apply(connection, job.id, lifecycle.retried(job, max_attempts=3))
    await applied(connection, job, lifecycle.cancelled(job, held=False, stopped_at_provider=False))

    told = await deliveries.recent(connection, job_id=job.id)

    assert [each.type for each in told] == [WebhookType.CANCELLED, WebhookType.FAILED]
    assert told[0].id != told[1].id
    assert [e.type for e in await history(connection, job) if e.status.is_final] == [
        EventType.FAILED,
        EventType.CANCELLED,
    ]


async def test_the_snapshot_is_of_the_transition_and_keeps_nothing_private(
    connection: Connection,
) -> None:
    job = await failed(connection, webhook_url=URL, prompt="a secret tram", metadata={"a": [1]})
    [delivery] = await deliveries.recent(connection)
    await jobs.apply(connection, job.id, lifecycle.retried(job, max_attempts=3))

    snapshot = (await again(connection, delivery)).snapshot

    assert (snapshot["status"], snapshot["metadata"]) == ("failed", {"a": [1]})
    assert not set(snapshot) & (PRIVATE | {"fingerprint"})
    assert "secret" not in orjson.dumps(snapshot).decode()
    assert "secret" not in repr(delivery)
    assert URL not in repr(delivery)


async def test_a_transaction_that_is_undone_leaves_no_delivery(connection: Connection) -> None:
    job = await held(connection, webhook_url=URL)

    transaction = connection.transaction()
    await transaction.start()
    await applied(connection, job, lifecycle.failed(job, InternalError("a defect")))
    await transaction.rollback()

    assert await deliveries.recent(connection) == []


# --- claim ---


async def test_a_claim_counts_and_lends_for_a_while(connection: Connection) -> None:
    delivery = await waiting(connection)

    [claimed] = await claim(connection)

    assert (claimed.id, claimed.attempts) == (delivery.id, 1)
    assert await claim(connection) == []


async def test_what_a_dead_worker_took_is_due_again(connection: Connection) -> None:
    await waiting(connection)
    await claim(connection, lease_s=0)

    [claimed] = await claim(connection)

    assert claimed.attempts == 2


async def test_many_workers_take_each_delivery_once(database: Database) -> None:
    async with database.connection() as connection:
        for number in range(30):
            await waiting(connection, f"https://{number % 5}.test/")

    async def work() -> list[UUID]:
        taken: list[UUID] = []
        async with database.connection() as connection:
            # A look at the same time as another one may find all that it wanted taken.
            for _ in range(10):
                taken += [delivery.id for delivery in await claim(connection, limit=7)]
        return taken

    async with asyncio.TaskGroup() as group:
        workers = [group.create_task(work()) for _ in range(8)]

    taken = [delivery_id for worker in workers for delivery_id in worker.result()]
    assert len(taken) == len(set(taken)) == 30


async def test_a_busy_host_holds_up_nobody_else(connection: Connection) -> None:
    for _ in range(5):
        await waiting(connection, "https://slow.test:8443/hook?x")
    await waiting(connection, "http://Quick.test/hook")

    first = await claim(connection, limit=3, per_host=2)
    sending = {"slow.test:8443": 2, "quick.test": 1}
    second = await claim(connection, per_host=2, sending=sending)

    assert sorted(delivery.host for delivery in first) == [
        "quick.test",
        "slow.test:8443",
        "slow.test:8443",
    ]
    assert second == []
    third = await claim(connection, per_host=2, sending={"slow.test:8443": 1})
    assert [delivery.host for delivery in third] == ["slow.test:8443"]


async def test_a_claim_is_bounded(connection: Connection) -> None:
    for number in range(4):
        await waiting(connection, f"https://{number}.test/")

    assert len(await claim(connection, limit=3)) == 3


# --- settle ---


async def test_a_delivered_one_is_over(connection: Connection) -> None:
    await waiting(connection)
    [claimed] = await claim(connection)

    assert await deliveries.settle(connection, claimed, DELIVERED)

    done = await again(connection, claimed)
    assert (done.state, done.last_status, done.next_at) == (DeliveryState.DELIVERED, 204, None)
    assert done.delivered_at is not None


async def test_a_refused_one_is_tried_later(connection: Connection) -> None:
    await waiting(connection)
    [claimed] = await claim(connection)

    assert await deliveries.settle(connection, claimed, REFUSED)

    later = await again(connection, claimed)
    assert (later.state, later.last_status, later.last_error) == (DeliveryState.PENDING, 500, "no")
    assert later.next_at is not None
    assert later.next_at - later.created_at > timedelta(seconds=299)


@pytest.mark.parametrize("outcome", [FAILED, GONE], ids=["failed", "gone"])
async def test_one_that_is_given_up_says_why(connection: Connection, outcome: Outcome) -> None:
    await waiting(connection)
    [claimed] = await claim(connection)

    await deliveries.settle(connection, claimed, outcome)

    done = await again(connection, claimed)
    assert (done.state, done.last_error, done.next_at) == (outcome.state, outcome.error, None)


async def test_whoever_was_frozen_overwrites_nothing(connection: Connection) -> None:
    await waiting(connection)
    [frozen] = await claim(connection, lease_s=0)
    [peer] = await claim(connection)
    await deliveries.settle(connection, peer, REFUSED)

    assert not await deliveries.settle(connection, frozen, DELIVERED)
    assert (await again(connection, peer)).state is DeliveryState.PENDING


async def test_what_is_given_back_is_due_at_once_and_was_no_try(connection: Connection) -> None:
    await waiting(connection)
    await waiting(connection)
    first, second = await claim(connection)
    await deliveries.settle(connection, second, DELIVERED)

    await deliveries.give_back(connection, [first, second])

    [claimed] = await claim(connection)
    assert (claimed.id, claimed.attempts) == (first.id, 1)


async def test_what_waits_for_a_secret_says_so_once(connection: Connection) -> None:
    delivery = await waiting(connection)

    assert await deliveries.explain(connection, "no secret") == 1
    assert await deliveries.explain(connection, "no secret") == 0

    later = await again(connection, delivery)
    assert (later.state, later.attempts, later.last_error) == ("pending", 0, "no secret")
    assert len(await claim(connection)) == 1


# --- looking, replaying, counting ---


async def test_lists_are_newest_first_page_by_page(connection: Connection) -> None:
    made = [await waiting(connection) for _ in range(5)]
    newest_first = [delivery.id for delivery in reversed(made)]

    first = await deliveries.recent(connection, limit=3)
    rest = await deliveries.recent(connection, before=first[-1].id, limit=3)

    assert [delivery.id for delivery in first + rest] == newest_first


async def test_lists_are_of_a_job_or_of_a_state(connection: Connection) -> None:
    first, second = await waiting(connection), await waiting(connection)
    claimed = {delivery.id: delivery for delivery in await claim(connection)}
    await deliveries.settle(connection, claimed[first.id], GONE)

    of_job = await deliveries.recent(connection, job_id=second.job_id)
    gone = await deliveries.recent(connection, state=DeliveryState.GONE)

    assert [delivery.id for delivery in of_job] == [second.id]
    assert [delivery.id for delivery in gone] == [first.id]
    assert await deliveries.get(connection, uuid7()) is None


@pytest.mark.parametrize("outcome", [DELIVERED, FAILED, GONE], ids=lambda outcome: outcome.state)
async def test_a_replay_begins_anew_under_the_same_id(
    connection: Connection, outcome: Outcome
) -> None:
    await waiting(connection)
    [claimed] = await claim(connection)
    await deliveries.settle(connection, claimed, outcome)

    replayed = await deliveries.replay(connection, claimed.id)

    assert replayed is not None
    assert (replayed.id, replayed.state, replayed.attempts) == (claimed.id, "pending", 0)
    [taken] = await claim(connection)
    assert taken.attempts == 1


async def test_a_replay_of_one_on_its_way_only_makes_it_due(connection: Connection) -> None:
    await waiting(connection)
    [claimed] = await claim(connection)

    await deliveries.replay(connection, claimed.id)

    [again_] = await claim(connection)
    assert again_.attempts == 2
    assert not await deliveries.settle(connection, claimed, DELIVERED)
    assert await deliveries.replay(connection, uuid7()) is None


async def test_those_on_their_way_and_those_given_up_are_counted(connection: Connection) -> None:
    for _ in range(5):
        await waiting(connection)
    first, second, third, _, _ = await claim(connection)
    await deliveries.settle(connection, first, FAILED)
    await deliveries.settle(connection, second, GONE)
    await deliveries.settle(connection, third, DELIVERED)

    counted = await deliveries.counts(connection)

    assert (counted.pending, counted.failed) == (2, 2)


# --- keeping and forgetting ---


async def test_an_archived_job_takes_its_webhooks_along_once_they_have_ended(
    connection: Connection,
) -> None:
    told, untold = [await failed(connection, webhook_url=URL) for _ in range(2)]
    for delivery in await claim(connection):
        if delivery.job_id == told.id:
            await deliveries.settle(connection, delivery, DELIVERED)
    for job in (told, untold):
        await aged(connection, job, "completed_at", 2 * DAY)

    assert await jobs.archive_ended(connection, DAY, 10) == 2

    [left] = await deliveries.recent(connection)
    assert left.job_id == untold.id  # its receiver still waits for it


async def test_a_deleted_job_takes_its_webhooks_along(connection: Connection) -> None:
    delivery = await waiting(connection)

    await connection.execute("DELETE FROM video_jobs WHERE id = $1", delivery.job_id)

    assert await deliveries.recent(connection) == []


async def test_what_is_old_is_forgotten_unless_it_is_on_its_way(connection: Connection) -> None:
    for _ in range(5):
        await waiting(connection)
    delivered, given_up, on_its_way, _, _ = await claim(connection)
    await deliveries.settle(connection, delivered, DELIVERED)
    await deliveries.settle(connection, given_up, FAILED)
    await deliveries.settle(connection, on_its_way, REFUSED)
    await connection.execute(
        """
        UPDATE webhook_deliveries SET
            created_at = created_at - interval '31 days',
            delivered_at = delivered_at - interval '31 days',
            next_at = CASE WHEN attempts = 1 AND last_status IS NULL AND state = 'pending'
                           THEN now() - interval '31 days' ELSE next_at END
        """
    )

    assert await deliveries.forget_old(connection, timedelta(days=30), 3) == 3
    assert await deliveries.forget_old(connection, timedelta(days=30), 3) == 1

    assert [delivery.id for delivery in await deliveries.recent(connection)] == [on_its_way.id]


@pytest.mark.parametrize(
    ("change", "promise"),
    [
        ("state = 'lost', next_at = NULL", "webhook_deliveries_state_check"),
        ("type = 'video.begun'", "webhook_deliveries_type_check"),
        ("attempts = -1", "webhook_deliveries_attempts_check"),
        ("next_at = NULL", "pending_is_due"),
        ("state = 'failed', last_error = 'x'", "pending_is_due"),
        ("state = 'delivered', next_at = NULL", "delivered_has_a_time"),
        ("delivered_at = now()", "delivered_has_a_time"),
        ("state = 'gone', next_at = NULL", "given_up_has_a_reason"),
    ],
)
async def test_a_row_that_breaks_a_promise_is_refused(
    connection: Connection, change: str, promise: str
) -> None:
    await waiting(connection)

    with pytest.raises(asyncpg.CheckViolationError) as error:
        await connection.execute(f"UPDATE webhook_deliveries SET {change}")  # noqa: S608

    assert error.value.constraint_name == promise


async def test_a_look_in_vain_reads_next_to_nothing(connection: Connection) -> None:
    for _ in range(3):
        await waiting(connection)
    for delivery in await claim(connection):
        await deliveries.settle(connection, delivery, DELIVERED)
    await connection.execute("SET enable_seqscan = off")

    plan = await connection.fetch(
        "EXPLAIN SELECT id FROM webhook_deliveries WHERE state = 'pending' AND next_at <= now()"
    )

    # Both of them hold what is pending, and nothing else.
    indexes = {"webhook_deliveries_due", "webhook_deliveries_by_host"}
    assert any(index in row[0] for row in plan for index in indexes)
