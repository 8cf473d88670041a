"""So many at once, the most urgent first."""

import asyncio
from collections import Counter

import pytest

from vidgen.gate import Gate, SharedGate


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


async def come(
    gate: SharedGate, sharers: str, group: asyncio.TaskGroup
) -> list[asyncio.Task[None]]:
    """One after the other comes and stays."""
    tasks = [group.create_task(gate.enter(sharer, 0)) for sharer in sharers]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return tasks


async def test_one_alone_gets_half_of_the_places_and_others_find_theirs() -> None:
    gate = SharedGate(8)

    async with asyncio.TaskGroup() as group:
        one = await come(gate, "a" * 20, group)
        alone = sum(each.done() for each in one)
        others = await come(gate, "bbbc", group)

        assert (alone, sum(each.done() for each in one)) == (4, 4)
        assert [each.done() for each in others] == [True, True, False, True]
        for each in one + others:
            each.cancel()


async def test_whoever_came_later_is_served_beside_the_long_line_of_another() -> None:
    gate, inside, most, order = SharedGate(6), Counter[str](), Counter[str](), list[str]()

    async def pass_through(sharer: str) -> None:
        await gate.enter(sharer, 0)
        order.append(sharer)
        inside[sharer] += 1
        most["a"] = max(most["a"], inside["a"])
        most["all"] = max(most["all"], inside.total())
        await asyncio.sleep(0)
        inside[sharer] -= 1
        gate.leave(sharer)

    async with asyncio.TaskGroup() as group:
        for sharer in "a" * 30 + "b" * 30:
            group.create_task(pass_through(sharer))

    assert most["a"] == 3
    assert most["all"] <= 6
    assert order[:30].count("b") >= 6


async def test_of_those_who_may_enter_the_most_urgent_goes_first_whoever_it_is_of() -> None:
    gate, order = SharedGate(1), []

    async def pass_through(sharer: str, before: float) -> None:
        await gate.enter(sharer, before)
        order.append((sharer, before))
        gate.leave(sharer)

    async with asyncio.TaskGroup() as group:
        await gate.enter("a", 0)
        for sharer, before in (("a", 3), ("b", 1), ("a", 2)):
            group.create_task(pass_through(sharer, before))
        await asyncio.sleep(0)
        gate.leave("a")

    assert order == [("b", 1), ("a", 2), ("a", 3)]


@pytest.mark.parametrize("is_let_in", [False, True])
async def test_whoever_gives_up_waiting_takes_no_place_of_the_others(is_let_in: bool) -> None:
    gate = SharedGate(1)

    async with asyncio.TaskGroup() as group:
        await gate.enter("a", 0)
        [waiting] = await come(gate, "a", group)
        if is_let_in:
            gate.leave("a")  # its turn has come, but it has not run yet
        waiting.cancel()
        await asyncio.sleep(0)
        if not is_let_in:
            gate.leave("a")

    async with asyncio.timeout(1):
        await gate.enter("b", 0)
