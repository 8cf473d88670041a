"""So many at once, the most urgent first."""

import asyncio

from vidgen.gate import Gate


async def test_those_who_wait_go_in_by_urgency() -> None:
    gate, order = Gate(1), []

    async def pass_through(before: float) -> None:
        async with gate.place(before):
            order.append(before)

    async with asyncio.TaskGroup() as group, gate.place(0):
        for before in (3, 1, 2):
            group.create_task(pass_through(before))
        await asyncio.sleep(0)

    assert order == [1, 2, 3]


async def test_never_more_than_the_places_are_inside() -> None:
    gate, inside, most = Gate(3), 0, 0

    async def pass_through(number: int) -> None:
        nonlocal inside, most
        async with gate.place(number):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for number in range(50):
            group.create_task(pass_through(number))

    assert most == 3


async def test_whoever_gives_up_waiting_loses_no_place() -> None:
    gate = Gate(1)

    async def wait_in_vain() -> None:
        async with gate.place(1):
            raise AssertionError("was let in")

    async with asyncio.TaskGroup() as group:
        async with gate.place(0):
            waiting = group.create_task(wait_in_vain())
            await asyncio.sleep(0)
            waiting.cancel()
        async with asyncio.timeout(1), gate.place(2):
            pass


async def test_a_place_handed_to_somebody_who_is_cancelled_goes_to_the_next() -> None:
    gate, entered = Gate(1), asyncio.Event()

    async def enter() -> None:
        async with gate.place(1):
            entered.set()

    async with asyncio.TaskGroup() as group:
        async with gate.place(0):
            first = group.create_task(enter())
            await asyncio.sleep(0)
        first.cancel()  # its turn has come, but it has not run yet
        async with asyncio.timeout(1), gate.place(2):
            pass
    assert not entered.is_set()
