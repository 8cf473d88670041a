"""Sealed keys in PostgreSQL: one in use for each user and interface, kept while a job needs it."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from tests.builders import an_operation
from tests.store.conftest import applied, claimed, inserted
from vidgen import keys as bring
from vidgen import lifecycle
from vidgen.errors import (
    InternalError,
    KeyNotFoundError,
    KeyUnreadableError,
    LeaseLostError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import Stage, VideoJob
from vidgen.keys import AddedKey
from vidgen.lifecycle import Backoff
from vidgen.store import jobs, keys
from vidgen.store.keys import StoredKey
from vidgen.store.pool import Connection, Database
from vidgen.vault import Vault, key_id

OLD, NEW = bytes(32), bytes([1]) * 32
RING = Vault([NEW, OLD])
SECRET = "sk-alice-0123456789"


async def added(
    connection: Connection,
    user_id: str = "alice",
    secret: str = SECRET,
    ring: Vault = RING,
) -> AddedKey:
    return await bring.add(connection, ring, user_id, bring.check("sora", secret))


async def begun(connection: Connection, key: AddedKey) -> VideoJob:
    """A job whose paid call is under way with *key*."""
    job = await claimed(connection, await inserted(connection, user_id=key.user_id))
    return await applied(connection, job, lifecycle.submitting(job, str(key.id)))


async def stored(connection: Connection) -> set[UUID]:
    return {key.id for key in await keys.listed(connection)}


async def test_the_newest_key_of_a_user_is_the_one_in_use(connection: Connection) -> None:
    first = await added(connection)
    second = await added(connection, secret="sk-alice-the-second")
    await added(connection, user_id="bob")

    found = await keys.current(connection, "alice", "sora", "openai")

    assert found is not None
    assert (found.id, second.replaced, second.jobs) == (second.id, first.id, 0)
    assert RING.open(found.sealed, bring.owner_of(found)) == "sk-alice-the-second"
    assert await keys.get(connection, first.id) is None  # nobody needed it


async def test_of_many_keys_added_at_once_one_is_in_use(database: Database) -> None:
    async def add(number: int) -> None:
        async with database.connection() as connection:
            await added(connection, secret=f"sk-alice-number-{number}")

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(add(number))

    async with database.connection() as connection:
        found = await keys.listed(connection, user_id="alice")
    assert [key.removed_at for key in found] == [None]


async def test_what_is_stored_is_neither_the_key_nor_readable_in_another_row(
    connection: Connection,
) -> None:
    await added(connection)
    await added(connection, user_id="bob", secret="sk-bob-0123456789")
    rows = await connection.fetch("SELECT * FROM provider_keys ORDER BY id")
    assert not any(b"sk-alice" in row["sealed"] for row in rows)
    assert "sk-alice" not in repr([dict(row) for row in rows])

    await connection.execute(
        """
        UPDATE provider_keys AS key SET sealed = other.sealed
        FROM provider_keys AS other WHERE other.id <> key.id
        """
    )

    for user_id in ("alice", "bob"):
        found = await keys.current(connection, user_id, "sora", "openai")
        assert found is not None
        with pytest.raises(KeyUnreadableError, match="belongs to another"):
            RING.open(found.sealed, bring.owner_of(found))


@pytest.mark.parametrize("column", ["user_id", "provider", "api"])
async def test_a_row_that_is_given_to_somebody_else_does_not_open(
    connection: Connection, column: str
) -> None:
    await added(connection)
    await connection.execute(f"UPDATE provider_keys SET {column} = 'mallory'")  # noqa: S608

    [row] = await connection.fetch("SELECT id, user_id, provider, api, sealed FROM provider_keys")
    key = StoredKey(**row)

    with pytest.raises(KeyUnreadableError):
        RING.open(key.sealed, bring.owner_of(key))


async def test_a_truncated_envelope_is_not_even_stored(database: Database) -> None:
    async with database.connection() as connection:
        await added(connection)

    with pytest.raises(InternalError, match="CheckViolation"):
        async with database.connection() as connection:
            await connection.execute("UPDATE provider_keys SET sealed = substring(sealed FOR 48)")


async def test_a_list_tells_hint_and_sealing_and_which_jobs_need_it(connection: Connection) -> None:
    key = await added(connection)
    await begun(connection, key)
    await begun(connection, key)
    waiting = await claimed(connection, await inserted(connection, user_id="alice"))
    await applied(connection, waiting, lifecycle.postponed(9, None, credential_id=str(key.id)))

    [found] = await keys.listed(connection, user_id="alice", provider="sora")

    assert (found.id, found.hint, found.key_id, found.jobs) == (key.id, "6789", key_id(NEW), 2)
    assert await keys.listed(connection, user_id="bob") == []
    assert await keys.listed(connection, before=key.id) == []


# --- removal ---


async def test_a_removed_key_that_no_job_needs_is_gone(connection: Connection) -> None:
    key = await added(connection)

    removed = await bring.remove(connection, key.id)

    assert (removed.jobs, removed.deleted) == (0, True)
    assert await stored(connection) == set()
    with pytest.raises(KeyNotFoundError):
        await bring.remove(connection, key.id)


async def test_a_removed_key_is_kept_sealed_until_the_last_job_that_began_with_it_ends(
    connection: Connection,
) -> None:
    key = await added(connection)
    first, second = await begun(connection, key), await begun(connection, key)

    removed = await bring.remove(connection, key.id)

    assert (removed.jobs, removed.deleted) == (2, False)
    assert await keys.current(connection, "alice", "sora", "openai") is None
    assert await keys.get(connection, key.id) is not None
    await applied(connection, first, lifecycle.failed(first, SubmitUnknownError("?")))
    assert await keys.forget_removed(connection) == 0
    await applied(
        connection,
        second,
        lifecycle.errored(
            second, TransientError("no"), backoff=Backoff(base_s=1), now=second.created_at
        ),
    )  # refused: the next attempt is made with whatever key there is then
    assert await keys.forget_removed(connection) == 1
    assert await stored(connection) == set()


async def test_a_key_that_was_replaced_is_kept_as_long_as_a_job_needs_it(
    connection: Connection,
) -> None:
    first = await added(connection)
    await begun(connection, first)

    second = await added(connection, secret="sk-alice-the-second")

    assert (second.replaced, second.jobs) == (first.id, 1)
    assert await stored(connection) == {first.id, second.id}


async def test_no_intent_is_written_with_a_key_that_was_removed(connection: Connection) -> None:
    key = await added(connection)
    job = await claimed(connection, await inserted(connection, user_id="alice"))
    await bring.remove(connection, key.id)

    with pytest.raises(LeaseLostError):
        await applied(connection, job, lifecycle.submitting(job, str(key.id)))

    now = await jobs.get(connection, job.id)
    assert now is not None
    assert (now.stage, now.attempt) == (Stage.QUEUED, 0)


async def test_a_removal_waits_for_an_intent_that_is_being_written_and_then_counts_it(
    database: Database,
) -> None:
    async with database.connection() as connection:
        key = await added(connection)
        job = await claimed(connection, await inserted(connection, user_id="alice"))

    async def remove() -> bring.RemovedKey:
        async with database.connection() as connection:
            return await bring.remove(connection, key.id)

    async with (
        asyncio.TaskGroup() as group,
        database.connection() as connection,
        connection.transaction(),
    ):
        await applied(connection, job, lifecycle.submitting(job, str(key.id)))
        removal = group.create_task(remove())
        async with database.connection() as observer:
            await _somebody_waits(observer)
        assert not removal.done()

    assert (removal.result().jobs, removal.result().deleted) == (1, False)


async def test_an_intent_waits_for_a_removal_and_then_is_refused(database: Database) -> None:
    async with database.connection() as connection:
        key = await added(connection)
        job = await claimed(connection, await inserted(connection, user_id="alice"))

    async def intend() -> None:
        async with database.connection() as connection:
            with pytest.raises(LeaseLostError):
                await applied(connection, job, lifecycle.submitting(job, str(key.id)))

    async with (
        asyncio.TaskGroup() as group,
        database.connection() as connection,
        connection.transaction(),
    ):
        await keys.remove(connection, key.id)
        group.create_task(intend())
        async with database.connection() as observer:
            await _somebody_waits(observer)


async def _somebody_waits(observer: Connection) -> None:
    async with asyncio.timeout(10):
        waiting = 0
        while not waiting:  # PostgreSQL tells nobody when somebody begins to wait
            waiting = await observer.fetchval(
                """
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'
                """
            )


# --- credentials of attempts ---


async def test_the_intent_and_the_receipt_say_which_credential(connection: Connection) -> None:
    key = await added(connection)
    job = await begun(connection, key)
    assert job.credential_id == str(key.id)

    receipt = lifecycle.submitted(job.attempt, an_operation())
    job = await applied(connection, job, receipt)

    assert job.credential_id == "server"  # as the receipt says


async def test_a_parked_job_keeps_its_place_and_its_deadline_moves_along(
    connection: Connection,
) -> None:
    key = await added(connection)
    job = await begun(connection, key)
    assert job.deadline_at is not None

    parked = await applied(
        connection, job, lifecycle.parked(job, KeyUnreadableError("no"), wait_s=300)
    )

    assert (parked.stage, parked.attempt, parked.failures) == (Stage.SUBMITTING, 1, 0)
    assert parked.worker_id is None
    assert parked.deadline_at is not None
    assert (parked.deadline_at - job.deadline_at).total_seconds() == 300
    assert parked.error_code == "key_unreadable"
    assert await jobs.parked(connection) == 1
    await connection.execute("UPDATE video_jobs SET due_at = now()")
    await claimed(connection, parked)
    assert await jobs.parked(connection) == 0


# --- sealing anew ---


async def many(connection: Connection, count: int, ring: Vault) -> list[UUID]:
    return [
        (await added(connection, f"user-{number}", f"sk-of-user-{number}", ring)).id
        for number in range(count)
    ]


async def resealed(database: Database, ring: Vault) -> tuple[int, int]:
    done, unreadable, after = 0, 0, None
    while True:
        step = await bring.reseal(database, ring, after)
        done, unreadable, after = done + step.resealed, unreadable + step.unreadable, step.next
        if after is None:
            return done, unreadable


async def counts(database: Database) -> Sequence[tuple[bytes, int]]:
    async with database.connection() as connection:
        return [(each.key_id, each.keys) for each in await keys.sealed_under(connection)]


async def test_a_rotation_seals_every_key_under_the_newest_one_and_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring, "BATCH", 7)
    async with database.connection() as connection:
        await many(connection, 30, Vault([OLD]))
        await many(connection, 3, RING)  # the first three replace theirs

    assert dict(await counts(database)) == {key_id(OLD): 27, key_id(NEW): 3}
    assert await resealed(database, RING) == (27, 0)

    assert await counts(database) == [(key_id(NEW), 30)]
    assert await resealed(database, RING) == (0, 0)
    async with database.connection() as connection:
        for number in range(30):
            key = await keys.current(connection, f"user-{number}", "sora", "openai")
            assert key is not None
            assert Vault([NEW]).open(key.sealed, bring.owner_of(key)) == f"sk-of-user-{number}"


async def test_two_rotations_at_once_do_the_work_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring, "BATCH", 5)
    async with database.connection() as connection:
        await many(connection, 40, Vault([OLD]))

    async with asyncio.TaskGroup() as group:
        both = [group.create_task(resealed(database, RING)) for _ in range(2)]

    assert sum(run.result()[0] for run in both) == 40
    assert await counts(database) == [(key_id(NEW), 40)]


async def test_a_rotation_leaves_what_it_cannot_open_and_goes_on_behind_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring, "BATCH", 2)
    lost = bytes([9]) * 32
    async with database.connection() as connection:
        await many(connection, 6, Vault([OLD]))
        await added(connection, "lost", "sk-lost", Vault([lost]))
        await connection.execute(
            """
            UPDATE provider_keys SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)
            WHERE user_id IN ('user-0', 'user-1', 'user-4')
            """
        )

    assert await resealed(database, RING) == (3, 3)

    assert dict(await counts(database)) == {key_id(OLD): 3, key_id(NEW): 3, key_id(lost): 1}


async def test_a_key_that_changed_meanwhile_is_left_alone(connection: Connection) -> None:
    await added(connection, ring=Vault([OLD]))
    [seen] = await keys.to_reseal(connection, [key_id(OLD)], after=None, limit=10)
    envelope = RING.seal(SECRET, bring.owner_of(seen))
    assert await keys.reseal(connection, [(seen, envelope)]) == 1

    assert await keys.reseal(connection, [(seen, b"x" * 60)]) == 0

    now = await keys.get(connection, seen.id)
    assert now is not None
    assert now.sealed == envelope


async def test_an_unknown_id_is_no_key(connection: Connection) -> None:
    assert await keys.get(connection, uuid7()) is None
    with pytest.raises(KeyNotFoundError):
        await bring.remove(connection, uuid7())


async def test_two_keys_in_use_for_one_interface_are_impossible(connection: Connection) -> None:
    await added(connection)

    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(
            """
            INSERT INTO provider_keys (id, user_id, provider, api, sealed)
            SELECT gen_random_uuid(), user_id, provider, api, sealed FROM provider_keys
            """
        )
