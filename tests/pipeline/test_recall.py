"""Who waits for a turn is called when there is one, and nobody else is."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.pipeline.conftest import Carrier
from vidgen import VideoJob, VideoRequest
from vidgen.resources import Resources
from vidgen.simulator.clips import render
from vidgen.simulator.server import SimulatorServer

SORA = VideoRequest(provider="sora", prompt="a tram in the rain", seconds=4)
SOON_S = 5.0  # far less than anybody is told to wait


@pytest.fixture(autouse=True)
def quick(simulator: SimulatorServer) -> None:
    simulator.sora.clip = render("tram", seconds=1, width=320, height=180, audio=False)
    simulator.sora.generation_s = 0.05


def set_limit(resources: Resources, per_min: int) -> None:
    object.__setattr__(resources.rate_limit, "_limit_per_min", per_min)


def account_of(resources: Resources) -> str:
    return resources.providers.account("sora", "sora-2")


async def a_line_of(carrier: Carrier, length: int) -> list[VideoJob]:
    """So many jobs that wait for their turn, the one with the only turn left out."""
    set_limit(carrier.resources, 1)
    await carrier.finish(await carrier.enqueue(SORA))
    return [await carrier.carry(await carrier.enqueue(SORA)) for _ in range(length)]


async def due_in_s(carrier: Carrier, jobs: list[VideoJob]) -> list[float]:
    now = [await carrier.queue.get(job.id) for job in jobs]
    return [(job.due_at - datetime.now(UTC)).total_seconds() for job in now if job.due_at]


async def queued(resources: Resources) -> set[str]:
    """Whose dispatch arq would take now."""
    now_ms = datetime.now(UTC).timestamp() * 1000 + 1
    names = await resources.redis.zrangebyscore(resources.settings.queue_name, "-inf", now_ms)
    return {name.decode() for name in names}


async def forget_turns(resources: Resources) -> None:
    """As if a minute had passed in which nobody submitted."""
    await resources.redis.delete(f"vidgen:turns:sora:{account_of(resources)}")


async def test_a_raised_limit_is_felt_at_once_by_the_first_in_line(
    carrier: Carrier, resources: Resources
) -> None:
    line = await a_line_of(carrier, 5)
    assert min(await due_in_s(carrier, line)) > SOON_S

    set_limit(resources, 4)
    await carrier.sweep()

    waits_s = await due_in_s(carrier, line)
    assert [wait_s < 0 for wait_s in waits_s] == [True, True, True, False, False]
    assert await queued(resources) >= {f"{job.id}.{job.lease_epoch}" for job in line[:3]}


async def test_nobody_waits_behind_those_who_left(carrier: Carrier, resources: Resources) -> None:
    line = await a_line_of(carrier, 30)
    for job in line:
        await carrier.queue.cancel(job.id)
    last = await carrier.carry(await carrier.enqueue(SORA))
    assert (await due_in_s(carrier, [last]))[0] > 1700

    await carrier.sweep()
    behind = await carrier.carry(await carrier.enqueue(SORA))
    await forget_turns(resources)
    await carrier.sweep()

    assert (await due_in_s(carrier, [behind]))[0] < 4 * 60
    assert (await due_in_s(carrier, [last]))[0] < 0


async def test_as_many_are_called_as_have_a_turn_and_not_again_and_again(
    carrier: Carrier, resources: Resources
) -> None:
    line = await a_line_of(carrier, 5)
    set_limit(resources, 3)

    for _ in range(3):  # no worker has a free place for them
        await carrier.sweep()

    assert sum(wait_s < 0 for wait_s in await due_in_s(carrier, line)) == 2


async def test_a_priority_is_called_before_those_who_asked_a_little_earlier(
    carrier: Carrier, resources: Resources
) -> None:
    line = await a_line_of(carrier, 3)
    urgent = await carrier.carry(await carrier.queue.enqueue(SORA, priority=1))
    set_limit(resources, 2)

    await carrier.sweep()

    waits_s = await due_in_s(carrier, [urgent, *line])
    assert [wait_s < 0 for wait_s in waits_s] == [True, False, False, False]


async def test_a_full_window_calls_nobody(carrier: Carrier) -> None:
    line = await a_line_of(carrier, 3)

    await carrier.sweep()

    assert min(await due_in_s(carrier, line)) > SOON_S


async def test_who_waits_for_something_else_is_left_alone(
    carrier: Carrier, resources: Resources
) -> None:
    [backed_off, has_a_turn] = await a_line_of(carrier, 2)
    wished_for = await carrier.queue.enqueue(SORA, run_at=datetime.now(UTC) + timedelta(hours=1))
    async with resources.database.connection() as connection:
        await connection.execute("UPDATE video_jobs SET failures = 1 WHERE id = $1", backed_off.id)
        await connection.execute(
            "UPDATE video_jobs SET slot_at = due_at WHERE id = $1", has_a_turn.id
        )
    set_limit(resources, 10)

    await carrier.sweep()

    assert min(await due_in_s(carrier, [backed_off, has_a_turn, wished_for])) > SOON_S


@pytest.mark.parametrize("provider", ["sora", "*"])
async def test_a_pause_calls_nobody(carrier: Carrier, resources: Resources, provider: str) -> None:
    line = await a_line_of(carrier, 2)
    set_limit(resources, 10)
    async with resources.database.connection() as connection:
        await connection.execute(
            "INSERT INTO pauses (provider, by) VALUES ($1, 'somebody')", provider
        )

    await carrier.sweep()

    assert min(await due_in_s(carrier, line)) > SOON_S


async def test_a_provider_that_does_not_answer_calls_nobody(
    carrier: Carrier, resources: Resources
) -> None:
    line = await a_line_of(carrier, 2)
    set_limit(resources, 10)
    while not await resources.breakers.failed("sora", account_of(resources)):
        pass

    await carrier.sweep()

    assert min(await due_in_s(carrier, line)) > SOON_S


async def test_who_waits_for_a_key_waits_for_no_turn(
    carrier: Carrier, resources: Resources
) -> None:
    line = await a_line_of(carrier, 2)
    async with resources.database.connection() as connection:
        await connection.execute("UPDATE video_jobs SET parked_at = now() WHERE status = 'pending'")

    set_limit(resources, 100)
    await carrier.sweep()

    assert min(await due_in_s(carrier, line)) > SOON_S
