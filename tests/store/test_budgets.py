"""Budgets on real PostgreSQL: what they let in, however many ask at once, and what frees them."""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.builders import a_new_job, a_video, an_operation, targets
from tests.ledger import assert_kept
from tests.store.conftest import an_operation_of, applied, claimed, completed, held, inserted
from vidgen import lifecycle
from vidgen.errors import (
    BudgetExceededError,
    DatabaseError,
    GenerationFailedError,
    InvalidRequestError,
    PriceUnknownError,
    RateLimitedError,
    SubmitUnknownError,
)
from vidgen.job import JobStatus, RerouteReason, Stage, VideoJob
from vidgen.lifecycle import Backoff, Prospect
from vidgen.store import budgets, erasure, jobs, ledger
from vidgen.store.budgets import Budget
from vidgen.store.pool import Connection, Database, connect

PRICE = 800_000
SEVEN = 7 * PRICE + PRICE // 2  # seven and a half


async def asked(database: Database, **changes: Any) -> VideoJob | None:
    """One job, or None if the money was out."""
    async with database.connection() as connection:
        try:
            [job] = await jobs.insert(connection, [a_new_job(**changes)])
        except BudgetExceededError:
            return None
    return job


async def at_once(many: Sequence[Awaitable[VideoJob | None]]) -> list[VideoJob]:
    async def one(ask: Awaitable[VideoJob | None]) -> VideoJob | None:
        return await ask

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(ask)) for ask in many]
    return [job for task in tasks if (job := task.result()) is not None]


async def used(connection: Connection, scope: str = "all") -> Budget:
    return next(each for each in await budgets.listed(connection) if each.scope == scope)


@pytest.mark.parametrize("scope", ["all", "provider:sora", "user:ann", "each-user"])
async def test_of_200_at_once_money_for_7_lets_7_in(database: Database, scope: str) -> None:
    async with database.connection() as connection:
        await budgets.put(connection, scope, "day", SEVEN, "test")

    made = await at_once([asked(database, user_id="ann") for _ in range(200)])

    assert len(made) == 7
    async with database.connection() as connection:
        assert (await used(connection, scope)).reserved_micros == 7 * PRICE
        await assert_kept(connection, *made)


async def test_what_is_released_meanwhile_lets_exactly_as_many_more_in(database: Database) -> None:
    async with database.connection() as connection:
        await budgets.put(connection, "all", "month", SEVEN, "test")
        await budgets.put(connection, "each-user", "day", SEVEN, "test")
        first = await inserted(connection, user_id="ann")
        refused = await held(connection, Stage.SUBMITTING, user_id="ann")

    async def end(job: VideoJob) -> VideoJob | None:
        change = (
            lifecycle.cancelled(job, held=False, stopped_at_provider=None)
            if job.stage is Stage.QUEUED
            else lifecycle.failed(job, InvalidRequestError("no"))  # refused: not paid
        )
        async with database.connection() as connection:
            await applied(connection, job, change)
        return None

    many = [asked(database, user_id="ann") for _ in range(60)]
    made = await at_once([*many[:20], end(first), *many[20:40], end(refused), *many[40:]])
    made += await at_once([asked(database, user_id="ann") for _ in range(20)])

    assert len(made) == 7  # the two that ended gave all of it back
    async with database.connection() as connection:
        [over_all, each_user] = await budgets.listed(connection)
        assert (over_all.reserved_micros, over_all.spent_micros) == (7 * PRICE, 0)
        assert (each_user.reserved_micros, each_user.near) == (7 * PRICE, 1)
        await assert_kept(connection, *made)


async def test_budgets_of_many_scopes_are_locked_in_one_order(database: Database) -> None:
    users, providers = ("ann", "bob", "cyd"), ("sora", "veo")
    async with database.connection() as connection:
        for scope in ("all", "each-user", "provider:sora", "provider:veo", "user:bob"):
            await budgets.put(connection, scope, "day", 40 * PRICE, "test")
            await budgets.put(connection, scope, "total", 1000 * PRICE, "test")

    async def mixed(number: int) -> VideoJob | None:
        new = [
            a_new_job(provider=providers[(number + k) % 2], user_id=users[(number + k) % 3])
            for k in range(3)
        ]
        async with database.connection() as connection:
            with suppress(BudgetExceededError):
                return (await jobs.insert(connection, new))[0]
        return None

    made = await at_once([mixed(number) for number in range(60)])

    assert len(made) == 13  # 39 videos; a deadlock would have failed one
    async with database.connection() as connection:
        assert (await used(connection)).reserved_micros == 39 * PRICE
        assert await budgets.discrepancies(connection) == []


async def test_a_refusal_says_which_budget_and_how_it_stands(connection: Connection) -> None:
    await budgets.put(connection, "all", "total", 10**9, "test")
    await budgets.put(connection, "each-user", "day", 2 * PRICE, "test")
    await completed(connection, user_id="ann")
    await inserted(connection, user_id="ann")

    with pytest.raises(BudgetExceededError) as refused:
        await inserted(connection, user_id="ann")

    error = refused.value
    assert (error.scope, error.period, error.limit_micros) == ("user", "day", 2 * PRICE)
    assert (error.spent_micros, error.reserved_micros, error.wanted_micros) == (PRICE,) * 3
    assert error.frees_at is not None
    assert error.frees_at - error.frees_at.replace(hour=0, minute=0) == timedelta(0)
    assert error.message.startswith(
        "The budget of this user, $1.60 a day, cannot bear $0.80 more: $0.80 are spent and $0.80"
        " reserved. It frees at "
    )
    await inserted(connection, user_id="bob")  # has a budget of their own
    await budgets.put(connection, "user:ann", "day", 3 * PRICE, "test")
    await inserted(connection, user_id="ann")
    await inserted(connection)  # nobody's: only the one over all counts
    assert await budgets.discrepancies(connection) == []


async def test_a_new_budget_counts_what_was_spent_before_it(connection: Connection) -> None:
    await completed(connection, user_id="ann")
    await inserted(connection, user_id="ann", provider="veo")

    for scope in ("all", "each-user", "user:ann", "provider:veo"):
        await budgets.put(connection, scope, "month", 2 * PRICE, "test")

    told = {each.scope: each for each in await budgets.listed(connection)}
    assert (told["all"].spent_micros, told["all"].reserved_micros) == (PRICE, PRICE)
    assert (told["user:ann"].spent_micros, told["user:ann"].reserved_micros) == (PRICE, PRICE)
    assert (told["provider:veo"].spent_micros, told["provider:veo"].reserved_micros) == (0, PRICE)
    assert told["each-user"].spent_micros == 0  # the only user has a budget of their own
    assert await budgets.discrepancies(connection) == []
    with pytest.raises(BudgetExceededError, match="all videos"):
        await inserted(connection)


async def test_a_budget_is_set_between_those_who_reserve(database: Database) -> None:
    async def limit() -> VideoJob | None:
        async with database.connection() as connection:
            await budgets.put(connection, "all", "day", 100 * PRICE, "test")
        return None

    many = [asked(database) for _ in range(150)]
    made = await at_once([*many[:50], limit(), *many[50:]])

    async with database.connection() as connection:
        assert await budgets.discrepancies(connection) == []
        assert (await used(connection)).reserved_micros == len(made) * PRICE
    assert len(made) >= 100


async def test_a_transaction_that_stays_open_keeps_no_worker_from_writing(
    connection: Connection, shared_database_url: str
) -> None:
    await budgets.put(connection, "all", "day", 10 * PRICE, "test")
    job = await held(connection, Stage.GENERATING)
    async with connect(shared_database_url) as caller:
        transaction = caller.transaction()
        await transaction.start()
        await jobs.insert(caller, [a_new_job()])

        job = await applied(
            connection, job, lifecycle.generated(job, expires_at=None, cost_micros=None)
        )
        await applied(connection, job, lifecycle.completed(job, a_video()))
        with pytest.raises(DatabaseError, match="stays open"):
            await budgets.put(connection, "all", "month", PRICE, "test")

        await transaction.rollback()
    told = await used(connection)
    assert (told.spent_micros, told.reserved_micros) == (PRICE, 0)


async def test_a_refusal_leaves_the_transaction_of_the_caller_usable(
    connection: Connection,
) -> None:
    await budgets.put(connection, "all", "day", PRICE, "test")

    async with connection.transaction():
        job = await inserted(connection)
        with pytest.raises(BudgetExceededError):
            async with connection.transaction():
                await inserted(connection)
        assert await jobs.get(connection, job.id)

    assert (await used(connection)).reserved_micros == PRICE


async def test_an_unknown_price_is_refused_while_any_budget_is_in_force(
    connection: Connection,
) -> None:
    unpriced = {"estimated_cost_micros": None, "model": "sora-9"}
    before = await inserted(connection, **unpriced)
    await budgets.put(connection, "provider:veo", "day", 10**9, "test")

    with pytest.raises(PriceUnknownError, match="sora-9"):
        await inserted(connection, **unpriced)
    cancel = lifecycle.cancelled(before, held=False, stopped_at_provider=None)
    before = await applied(connection, before, cancel)
    with pytest.raises(PriceUnknownError):
        await applied(connection, before, lifecycle.retried(before, max_attempts=3))
    allowed = await inserted(connection, **unpriced, allow_unknown_price=True)

    job = await claimed(connection, allowed)
    assert (job.estimated_cost_micros, job.stage) == (None, Stage.QUEUED)
    assert await ledger.of_job(connection, job.id) == []


async def test_a_retry_by_hand_reserves_and_one_that_goes_on_with_what_is_paid_does_not(
    connection: Connection,
) -> None:
    await budgets.put(connection, "all", "day", PRICE, "test")
    job = await held(connection, Stage.GENERATING)
    lost = await applied(connection, job, lifecycle.failed(job, SubmitUnknownError("?")))
    told = await used(connection)
    assert (told.spent_micros, told.reserved_micros) == (PRICE, 0)  # it may be billed

    with pytest.raises(BudgetExceededError):
        await applied(connection, lost, lifecycle.retried(lost, max_attempts=3, anew=True))
    on = await applied(connection, lost, lifecycle.retried(lost, max_attempts=3))

    assert (on.status, on.stage) == (JobStatus.PROCESSING, Stage.GENERATING)
    told = await used(connection)
    assert (told.spent_micros, told.reserved_micros) == (0, PRICE)
    await assert_kept(connection, on)


async def test_another_attempt_after_one_in_doubt_is_held_to_the_budget(
    connection: Connection,
) -> None:
    await budgets.put(connection, "all", "day", PRICE, "test")
    job = await held(connection, Stage.SUBMITTING)
    doubt = SubmitUnknownError("?")

    with pytest.raises(BudgetExceededError) as refused:
        await applied(connection, job, lifecycle.resubmitted(job, doubt))
    backoff, now = Backoff(base_s=0), job.created_at
    failed = await applied(
        connection, job, lifecycle.errored(job, refused.value, backoff=backoff, now=now)
    )

    assert (failed.status, failed.error_code) == (JobStatus.FAILED, "budget_exceeded")
    assert (failed.actual_cost_micros, lifecycle.unknown_attempts(failed)) == (None, 1)
    await assert_kept(connection, failed)


async def test_an_attempt_that_was_not_charged_leaves_its_money_to_the_next(
    connection: Connection,
) -> None:
    await budgets.put(connection, "all", "day", PRICE, "test")
    job = await held(connection, Stage.GENERATING)
    verdict = lifecycle.judged(
        job,
        GenerationFailedError("no"),
        charged=False,
        backoff=Backoff(base_s=0),
        now=job.created_at,
    )
    await applied(connection, job, verdict)

    assert [entry.kind for entry in await ledger.of_job(connection, job.id)] == ["reserved"]
    assert (await used(connection)).reserved_micros == PRICE


async def test_a_price_that_differs_from_the_estimate_is_what_counts(
    connection: Connection,
) -> None:
    for price in (PRICE // 2, 2 * PRICE):
        await budgets.put(connection, "all", "day", 10 * PRICE, "test")
        job = await held(connection, Stage.GENERATING)
        job = await applied(
            connection, job, lifecycle.generated(job, expires_at=None, cost_micros=price)
        )
        await assert_kept(connection, job)
    told = await used(connection)
    assert (told.spent_micros, told.reserved_micros) == (PRICE // 2 + 2 * PRICE, 0)


async def put_key(connection: Connection, user_id: str) -> UUID:
    key_id = uuid4()
    await connection.execute(
        """
        INSERT INTO provider_keys (id, user_id, provider, api, sealed)
        VALUES ($1, $2, 'sora', 'openai', $3)
        """,
        key_id,
        user_id,
        bytes(60),
    )
    return key_id


async def test_a_users_own_key_spends_the_users_money(connection: Connection) -> None:
    key_id = await put_key(connection, "ann")
    await budgets.put(connection, "all", "day", 0, "test")

    job = await claimed(connection, await inserted(connection, user_id="ann", api="openai"))
    job = await applied(connection, job, lifecycle.submitting(job, str(key_id)))

    assert [entry.payer for entry in await ledger.of_job(connection, job.id)] == ["user"]
    assert (await used(connection)).reserved_micros == 0
    with pytest.raises(BudgetExceededError):  # a key for another interface opens nothing here
        await inserted(connection, user_id="ann", api="vertex")


async def test_whose_key_is_gone_needs_the_servers_money(connection: Connection) -> None:
    await put_key(connection, "ann")
    await budgets.put(connection, "all", "day", PRICE, "test")
    poor, rich = [
        await claimed(connection, await inserted(connection, user_id="ann", api="openai"))
        for _ in range(2)
    ]
    await connection.execute("DELETE FROM provider_keys")

    rich = await applied(connection, rich, lifecycle.submitting(rich))
    with pytest.raises(BudgetExceededError):
        await applied(connection, poor, lifecycle.submitting(poor))

    assert (await used(connection)).reserved_micros == PRICE
    kinds = [(entry.kind, entry.payer) for entry in await ledger.of_job(connection, rich.id)]
    assert kinds == [("reserved", "user"), ("released", "user"), ("reserved", "server")]
    await assert_kept(connection, rich, poor)


async def waited(connection: Connection, job: VideoJob, credential_id: str) -> VideoJob:
    """*job* after a wait for its turn, of that credential."""
    change = lifecycle.postponed(0.0, None, credential_id=credential_id)
    return await claimed(connection, await applied(connection, job, change))


@pytest.mark.parametrize(
    ("price", "error"), [(PRICE, BudgetExceededError), (None, PriceUnknownError)]
)
async def test_a_wait_for_a_turn_with_the_servers_key_is_not_yet_the_servers_money(
    connection: Connection, price: int | None, error: type[Exception]
) -> None:
    await put_key(connection, "ann")
    await budgets.put(connection, "all", "total", PRICE // 2, "test")
    changes = {"user_id": "ann", "api": "openai", "estimated_cost_micros": price}
    job = await claimed(connection, await inserted(connection, **changes))
    await connection.execute("DELETE FROM provider_keys")

    job = await waited(connection, job, "server")
    with pytest.raises(error):
        await applied(connection, job, lifecycle.submitting(job))

    assert (await used(connection)).reserved_micros == 0
    await assert_kept(connection, job)


async def test_a_key_that_came_and_went_again_leaves_the_attempt_to_the_budgets(
    connection: Connection,
) -> None:
    await budgets.put(connection, "all", "total", PRICE, "test")
    job = await claimed(connection, await inserted(connection, user_id="ann", api="openai"))
    key_id = await put_key(connection, "ann")
    job = await applied(connection, job, lifecycle.submitting(job, str(key_id)))
    job = await refused_for_now(connection, job)
    other = await inserted(connection)  # ann pays: the money is free
    await connection.execute("UPDATE provider_keys SET removed_at = now()")

    with pytest.raises(BudgetExceededError):
        await applied(connection, job, lifecycle.submitting(job))
    cancel = lifecycle.cancelled(other, held=False, stopped_at_provider=None)
    await applied(connection, other, cancel)
    job = await applied(connection, job, lifecycle.submitting(job))

    last = (await ledger.of_job(connection, job.id))[-1]
    assert (last.kind, last.payer, last.micros) == ("reserved", "server", PRICE)
    assert (await used(connection)).reserved_micros == PRICE
    await assert_kept(connection, job)


async def refused_for_now(connection: Connection, job: VideoJob) -> VideoJob:
    """*job*, held again, after a refusal of its submit by the rate limit."""
    change = lifecycle.errored(
        job, RateLimitedError("busy"), backoff=Backoff(base_s=0), now=job.created_at
    )
    return await claimed(connection, await applied(connection, job, change))


async def test_a_price_that_nobody_knows_is_refused_of_one_that_waited_for_the_budget(
    connection: Connection,
) -> None:
    waiting = await held(connection, estimated_cost_micros=None)
    allowed = await held(connection, estimated_cost_micros=None, allow_unknown_price=True)
    in_doubt = await held(connection, Stage.SUBMITTING, estimated_cost_micros=None)
    await budgets.put(connection, "all", "total", 10**9, "test")

    with pytest.raises(PriceUnknownError):
        await applied(connection, waiting, lifecycle.submitting(waiting))
    again = lifecycle.resubmitted(in_doubt, SubmitUnknownError("?"))
    with pytest.raises(PriceUnknownError):
        await applied(connection, in_doubt, again)
    sent = await applied(connection, allowed, lifecycle.submitting(allowed))

    assert sent.stage is Stage.SUBMITTING


async def test_the_ledger_is_only_ever_added_to(connection: Connection) -> None:
    job = await inserted(connection, user_id="ann")

    for deed in (
        "UPDATE ledger SET micros = 0",
        "UPDATE ledger SET user_id = NULL",
        "DELETE FROM ledger",
        "TRUNCATE ledger",
    ):
        with pytest.raises(asyncpg.PostgresError, match="only ever added to"):
            await connection.execute(deed)
    await assert_kept(connection, job)


async def test_forgetting_a_user_keeps_the_sums_and_no_person(connection: Connection) -> None:
    await budgets.put(connection, "user:ann", "total", 10**9, "test")
    await budgets.put(connection, "each-user", "day", 10**9, "test")
    job = await completed(connection, user_id="ann")
    await completed(connection, user_id="bob")
    before = await ledger.balance(connection)
    await erasure.ask(connection, "ann")

    await erasure.delete(connection, [job.id])
    assert await erasure.finish(connection, "ann", erasure.pseudonym("ann"))

    assert await ledger.balance(connection) == before
    assert {entry.user_id for entry in await ledger.of_job(connection, job.id)} == {None}
    assert {each.key for each in await ledger.spend(connection, by="user")} == {None, "bob"}
    for table in ("ledger", "budgets", "budget_use", "budget_changes"):
        rows = await connection.fetch(f"SELECT * FROM {table}")  # noqa: S608  ours
        assert not [row for row in rows if "ann" in str(dict(row))]
    assert await budgets.discrepancies(connection) == []


async def test_a_warning_is_given_once_for_each_budget_and_period(connection: Connection) -> None:
    await budgets.put(connection, "all", "day", 5 * PRICE, "test")
    await budgets.put(connection, "each-user", "month", PRICE, "test")
    for _ in range(3):
        await inserted(connection)
    assert await budgets.warn(connection) == []
    await inserted(connection, user_id="ann")

    near = await budgets.warn(connection)

    assert {(each.scope, each.used_micros) for each in near} == {
        ("all", 4 * PRICE),
        ("user:ann", PRICE),
    }
    assert await budgets.warn(connection) == []
    assert (await used(connection)).warned_at is not None
    await budgets.put(connection, "all", "day", 4 * PRICE, "test")  # what is new is told anew
    assert [each.scope for each in await budgets.warn(connection)] == ["all"]


async def test_budgets_of_the_settings_give_way_to_those_set_by_hand(
    connection: Connection,
) -> None:
    await budgets.follow_settings(connection, [("day", 5), ("month", 50)])
    await budgets.follow_settings(connection, [("day", 7)])
    limits = {each.period: each.limit_micros for each in await budgets.listed(connection)}
    assert limits == {"day": 7, "month": 50}

    await budgets.put(connection, "all", "day", 1, "ann")
    await budgets.follow_settings(connection, [("day", 7), ("month", 50)])

    assert (await used(connection)).limit_micros == 1


@pytest.mark.parametrize("scope", ["", "everything", "provider:", "user:", "user:a\0b"])
async def test_what_is_no_scope_is_refused(connection: Connection, scope: str) -> None:
    with pytest.raises(InvalidRequestError):
        await budgets.put(connection, scope, "day", 1, "test")


async def test_counts_that_went_wrong_are_found(connection: Connection) -> None:
    await budgets.put(connection, "all", "day", 10**9, "test")
    await inserted(connection)
    await connection.execute("DELETE FROM budget_changes; UPDATE budget_use SET spent_micros = 5")

    [wrong] = await budgets.discrepancies(connection)

    assert (wrong.scope, wrong.counted_micros, wrong.ledger_micros) == ("all", PRICE + 5, PRICE)


async def test_old_counts_go_and_the_ledger_stays(connection: Connection) -> None:
    await budgets.put(connection, "all", "day", 10**9, "test")
    job = await inserted(connection)
    await connection.execute("UPDATE budget_use SET starts_on = starts_on - 30")

    await budgets.forget_past(connection)

    assert await connection.fetchval("SELECT count(*) FROM budget_use") == 0
    assert len(await ledger.of_job(connection, job.id)) == 1


# What the release before sends: it names no column of this step.
INSERT_OF_BEFORE = """
INSERT INTO video_jobs (id, provider, model, prompt, fingerprint, max_attempts, deadline_s,
                        estimated_cost_micros)
VALUES ($1, 'sora', 'sora-2', 'x', 'f', 3, 1800, $2)
"""


async def test_jobs_of_the_release_before_are_counted_and_not_refused(
    connection: Connection,
) -> None:
    await budgets.put(connection, "all", "day", PRICE, "test")
    for _ in range(2):
        await connection.execute(INSERT_OF_BEFORE, uuid4(), PRICE)

    assert (await used(connection)).reserved_micros == 2 * PRICE
    with pytest.raises(BudgetExceededError):
        await inserted(connection)


async def test_a_job_from_before_the_ledger_is_charged_when_it_is_known(
    connection: Connection,
) -> None:
    await budgets.put(connection, "all", "day", 10**9, "test")
    job = await held(connection, Stage.GENERATING)
    await connection.execute("ALTER TABLE ledger DISABLE TRIGGER USER; DELETE FROM ledger")
    await connection.execute("ALTER TABLE ledger ENABLE TRIGGER USER; DELETE FROM budget_changes")
    await connection.execute("DELETE FROM budget_use")

    job = await applied(
        connection, job, lifecycle.generated(job, expires_at=None, cost_micros=None)
    )

    assert [entry.kind for entry in await ledger.of_job(connection, job.id)] == [
        "reserved",
        "charged",
    ]
    assert (await used(connection)).spent_micros == PRICE
    await assert_kept(connection, job)


FAIL_OVER = """
UPDATE video_jobs SET provider = 'veo', model = 'veo-3.1-fast-generate-preview',
                      estimated_cost_micros = $2, reservations = reservations + 1
WHERE id = $1
"""


async def test_an_attempt_elsewhere_reserves_the_difference_or_is_refused(
    connection: Connection,
) -> None:
    await budgets.put(connection, "all", "day", 2 * PRICE, "test")
    await budgets.put(connection, "provider:veo", "day", 2 * PRICE, "test")
    job = await inserted(connection)

    with pytest.raises(BudgetExceededError):
        async with budgets.money_errors():
            await connection.execute(FAIL_OVER, job.id, 3 * PRICE)
    async with budgets.money_errors():
        await connection.execute(FAIL_OVER, job.id, 2 * PRICE)

    told = {each.scope: each.reserved_micros for each in await budgets.listed(connection)}
    assert told == {"all": 2 * PRICE, "provider:veo": 2 * PRICE}
    entries = [(each.kind, each.provider) for each in await ledger.of_job(connection, job.id)]
    assert entries == [("reserved", "sora"), ("released", "sora"), ("reserved", "veo")]
    assert await budgets.discrepancies(connection) == []


async def test_a_receipt_that_comes_too_late_is_entered_for_the_target_that_was_left(
    connection: Connection,
) -> None:
    for scope in ("provider:sora", "provider:veo"):
        await budgets.put(connection, scope, "day", 10 * PRICE, "test")
    reroute_on = tuple(RerouteReason)
    job = await held(
        connection, Stage.SUBMITTING, reroute_on=reroute_on, **targets(PRICE, 2 * PRICE)
    )
    onward = lifecycle.disproved(job, prospects=[Prospect(target=1)], now=job.created_at)
    job = await claimed(connection, await applied(connection, job, onward))
    job = await applied(connection, job, lifecycle.submitting(job))

    late = lifecycle.overtaken(job, 1, an_operation("late"), left=0)
    job = await applied(connection, job, late)

    told = {each.scope: each for each in await budgets.listed(connection)}
    sora, veo = told["provider:sora"], told["provider:veo"]
    assert (sora.spent_micros, sora.reserved_micros) == (PRICE, 0)
    assert (veo.spent_micros, veo.reserved_micros) == (0, 2 * PRICE)
    await assert_kept(connection, job)
    # What becomes of the later attempt takes nothing of it back.
    failed = await applied(connection, job, lifecycle.failed(job, SubmitUnknownError("?")))
    receipt = lifecycle.submitted(job.attempt, an_operation_of(job))
    await assert_kept(connection, failed)
    await assert_kept(connection, await applied(connection, failed, receipt))


async def test_cleaning_up_old_jobs_keeps_the_ledger(connection: Connection) -> None:
    job = await held(connection, Stage.GENERATING)
    job = await applied(connection, job, lifecycle.failed(job, SubmitUnknownError("?")))
    before = await ledger.of_job(connection, job.id)

    assert await jobs.archive_ended(connection, timedelta(0), 10) == 1

    assert await ledger.of_job(connection, job.id) == before != []
