"""Pauses hold new jobs back, and actions by hand are written down."""

from datetime import timedelta

import pytest

from tests.store.conftest import applied, claimed, held, inserted
from vidgen import lifecycle
from vidgen.errors import LeaseLostError
from vidgen.job import Stage
from vidgen.store import jobs, steering
from vidgen.store.pool import Connection


@pytest.mark.parametrize("paused", ["sora", None])
async def test_no_new_job_of_a_paused_provider_is_taken_or_dispatched(
    connection: Connection, paused: str | None
) -> None:
    job = await inserted(connection)
    await steering.pause(connection, paused, "ada", "maintenance")

    with pytest.raises(LeaseLostError):
        await claimed(connection, job)
    assert await jobs.due(connection, overdue_s=-10, after=None, limit=10) == []


async def test_other_providers_and_jobs_that_were_begun_go_on(connection: Connection) -> None:
    begun = await held(connection, Stage.GENERATING)
    await applied(connection, begun, lifecycle.released(begun, "hand_over"))
    other = await inserted(connection, provider="veo")
    await steering.pause(connection, "sora", "ada", "")

    due = await jobs.due(connection, overdue_s=-10, after=None, limit=10)

    assert {job.id for job in due} == {begun.id, other.id}
    assert (await claimed(connection, begun)).stage is Stage.GENERATING
    assert (await claimed(connection, other)).provider == "veo"


async def test_the_first_who_pauses_is_remembered_until_it_is_resumed(
    connection: Connection,
) -> None:
    await steering.pause(connection, "sora", "ada", "first")
    await steering.pause(connection, "sora", "bob", "second")
    await steering.pause(connection, None, "bob", "all")

    held_back = await steering.pauses(connection)

    assert [(pause.provider, pause.by) for pause in held_back] == [(None, "bob"), ("sora", "ada")]
    assert await steering.resume(connection, "sora")
    assert not await steering.resume(connection, "sora")
    assert await steering.resume(connection, None)


async def test_actions_are_listed_newest_first_and_forgotten_in_time(
    connection: Connection,
) -> None:
    for number in range(3):
        await steering.note(
            connection,
            who="ada",
            role="operate",
            address="::1",
            action="cancel",
            target=str(number),
            detail={"discard": True},
        )

    [newest, middle] = await steering.entries(connection, before=None, limit=2)
    [oldest] = await steering.entries(connection, before=middle.seq, limit=2)

    assert [entry.target for entry in (newest, middle, oldest)] == ["2", "1", "0"]
    assert newest.detail == {"discard": True}
    await steering.forget_entries(connection, timedelta())
    assert await steering.entries(connection, before=None, limit=2) == []
