"""So many at once, the most urgent first."""

import asyncio

import pytest

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


async def test_a_line_that_moves_is_waited_in_for_longer_than_patience_lasts() -> None:
    gate, waits = Gate(1), 0

    async def pass_slowly(before: int) -> None:
        nonlocal waits
        await gate.enter(before, patience_s=0.2)
        await asyncio.sleep(0.1)
        gate.leave()
        waits += 1

    async with asyncio.TaskGroup() as group:
        for before in range(4):
            group.create_task(pass_slowly(before))

    assert waits == 4


async def test_a_line_that_does_not_move_is_left() -> None:
    gate = Gate(1)
    await gate.enter(0)

    with pytest.raises(TimeoutError):
        await gate.enter(1, patience_s=0.01)

    gate.leave()
    async with asyncio.timeout(1), gate.place(2):
        pass


async def test_a_line_in_which_others_always_go_first_is_left_in_the_end() -> None:
    gate, over = Gate(1), False

    async def pass_again_and_again() -> None:
        while not over:
            async with gate.place(0):
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):  # so that there is always one in line
            group.create_task(pass_again_and_again())
        await asyncio.sleep(0)
        with pytest.raises(TimeoutError):
            await gate.enter(1, patience_s=0.01)
        over = True


async def test_those_who_could_do_nothing_with_their_place_do_not_move_a_line() -> None:
    gate = Gate(1)
    await gate.enter(0)

    async def try_in_vain() -> None:
        await gate.enter(1)
        await asyncio.sleep(0.2)
        gate.leave(passed=False)

    async with asyncio.TaskGroup() as group:
        group.create_task(try_in_vain())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.05, lambda: gate.leave(passed=False))
        with pytest.raises(TimeoutError):
            await gate.enter(2, patience_s=0.1)


async def test_whoever_is_cancelled_in_a_patient_line_loses_no_place() -> None:
    gate = Gate(1)

    async with asyncio.TaskGroup() as group:
        await gate.enter(0)
        waiting = group.create_task(gate.enter(1, patience_s=10))
        await asyncio.sleep(0)
        gate.leave()
        waiting.cancel()  # its turn has come, but it has not run yet
        async with asyncio.timeout(1), gate.place(2):
            pass
