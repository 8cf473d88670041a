"""A job that sleeps between two looks is woken when its provider calls, and only then."""

import asyncio
from uuid import UUID

from vidgen import live
from vidgen.live import Wakes

JOB, OTHER = UUID(int=1), UUID(int=2)
LONG_S, SHORT_S = 3600.0, 0.02


async def slept(wakes: Wakes, wait_s: float, job_id: UUID = JOB) -> None:
    with wakes.expected(job_id):
        await live.nap(wait_s)


async def test_a_wake_ends_the_nap_of_its_job_only() -> None:
    wakes = Wakes()
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        ours = group.create_task(slept(wakes, LONG_S))
        other = group.create_task(slept(wakes, LONG_S, OTHER))
        await asyncio.sleep(0)

        wakes.wake(JOB)
        await ours

        assert not other.done()
        wakes.wake(OTHER)


async def test_without_a_wake_a_nap_takes_its_time() -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()

    await slept(Wakes(), SHORT_S)
    await live.nap(SHORT_S)  # nobody expects a call

    assert loop.time() - begun >= 2 * SHORT_S


async def test_a_call_that_comes_while_it_looks_is_not_lost() -> None:
    wakes = Wakes()
    with wakes.expected(JOB):
        wakes.wake(JOB)

        async with asyncio.timeout(5):
            await live.nap(LONG_S)


async def test_one_call_ends_one_nap() -> None:
    loop, wakes = asyncio.get_running_loop(), Wakes()
    with wakes.expected(JOB):
        wakes.wake(JOB)
        await live.nap(LONG_S)
        begun = loop.time()

        await live.nap(SHORT_S)

    assert loop.time() - begun >= SHORT_S


async def test_a_call_about_a_job_that_is_not_here_changes_nothing() -> None:
    wakes = Wakes()
    await slept(wakes, SHORT_S)

    wakes.wake(JOB)

    assert wakes._alarms == {}


async def test_a_second_dispatch_of_a_job_does_not_take_its_alarm_away() -> None:
    wakes = Wakes()
    with wakes.expected(JOB):
        with wakes.expected(JOB):
            pass
        wakes.wake(JOB)

        async with asyncio.timeout(5):
            await live.nap(LONG_S)


async def test_a_nap_that_is_cancelled_leaves_no_timer_behind() -> None:
    wakes = Wakes()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(slept(wakes, LONG_S))
        await asyncio.sleep(0)
        task.cancel()

    assert wakes._alarms == {}
