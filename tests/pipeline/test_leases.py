"""Who cannot renew stops in time, whatever the heartbeat itself is waiting for."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA
from vidgen.pipeline.leases import Held, InterruptedStageError, Interruption
from vidgen.store.pool import Connection, Urgency


async def test_work_is_stopped_in_time_while_a_heartbeat_hangs(carrier: Carrier) -> None:
    job = await carrier.enqueue(SORA)
    leases, database = carrier.leases, carrier.resources.database
    lend, answers = database.connection, asyncio.Event()

    @asynccontextmanager
    async def hanging(urgency: Urgency = Urgency.USUAL) -> AsyncIterator[Connection]:
        try:
            await answers.wait()
        except asyncio.CancelledError:
            await answers.wait()  # its timeout does not help: even the end of a statement hangs
            raise
        async with lend(urgency) as connection:
            yield connection

    async with leases.claim(job.id) as held:
        assert held is not None
        object.__setattr__(database, "connection", hanging)
        try:
            with pytest.raises(InterruptedStageError) as interrupted:
                async with asyncio.timeout(20), held.interruptible():
                    await asyncio.Event().wait()
        finally:
            object.__setattr__(database, "connection", lend)
            answers.set()

    assert interrupted.value.why is Interruption.LEASE_LOST


async def test_a_lease_may_be_lost_while_its_work_is_being_left_for_another_reason(
    carrier: Carrier,
) -> None:
    job = await carrier.enqueue(SORA)

    async def work(held: Held) -> None:
        async with held.interruptible():
            held.interrupt(Interruption.HAND_OVER, urgent=False)
            try:
                await asyncio.Event().wait()
            finally:
                held.interrupt(Interruption.LEASE_LOST, urgent=True)

    async with carrier.leases.claim(job.id) as held:
        assert held is not None
        with pytest.raises(InterruptedStageError) as interrupted:
            await work(held)

    assert interrupted.value.why is Interruption.LEASE_LOST
