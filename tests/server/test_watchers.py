"""Everybody who watches is told everything, once and in order, whatever happens to their line."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from aiohttp.test_utils import TestServer

from tests.bench.watchers import Watcher, crowd, verdict, watching
from tests.by_hand import Hand
from tests.server.conftest import TOKEN
from vidgen.job import VideoRequest
from vidgen.queue import VideoQueue
from vidgen.resources import Resources
from vidgen.server import hub
from vidgen.server.app import build
from vidgen.store import events

RIGHT = {"missing": 0, "twice": 0, "foreign": 0, "disordered": 0}
TRAM = VideoRequest(provider="sora", prompt="a tram in the rain")


@pytest.fixture
async def url(resources: Resources) -> AsyncIterator[str]:
    async with TestServer(build(resources)) as server:
        yield str(server.make_url("/"))


async def newest(resources: Resources) -> int:
    async with resources.database.connection() as connection:
        return await events.newest(connection)


async def happened(resources: Resources, *, behind: int) -> list[int]:
    """The numbers of all events behind one."""
    async with resources.database.connection() as connection:
        rows = await connection.fetch(
            "SELECT seq FROM job_events WHERE seq > $1 ORDER BY seq", behind
        )
    return [row["seq"] for row in rows]


async def test_fifty_who_watch_are_told_every_transition_once_and_in_order(
    url: str, resources: Resources, queue: VideoQueue, hand: Hand
) -> None:
    jobs = [await queue.enqueue(TRAM) for _ in range(10)]
    first = await newest(resources)
    watchers = crowd([str(job.id) for job in jobs], alone=25, of_all=25)

    async with watching(url, TOKEN, watchers) as finish:
        async with asyncio.TaskGroup() as group:
            for job in jobs:
                group.create_task(hand.carry(job))
        await finish(await newest(resources))

    truth = await happened(resources, behind=first)
    for watcher in watchers:
        if watcher.job_id is None:
            assert verdict(watcher.seqs, truth) == RIGHT
            continue
        [job] = [job for job in jobs if str(job.id) == watcher.job_id]
        told = [event.seq or 0 for event in await queue.history(job.id)]
        assert watcher.seqs == told
    assert sum(watcher.streams for watcher in watchers) > len(watchers)  # some did come again


async def test_who_is_far_behind_reads_on_page_by_page(
    url: str,
    resources: Resources,
    queue: VideoQueue,
    hand: Hand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "READ_AT_ONCE", 5)
    first = await newest(resources)
    await queue.enqueue(TRAM)
    seen = await newest(resources)
    for _ in range(3):
        await hand.carry(await queue.enqueue(TRAM))
    new, back = Watcher(None), Watcher(None, seqs=[seen])

    async with watching(url, TOKEN, [new, back]) as finish:
        await hand.carry(await queue.enqueue(TRAM))
        await finish(await newest(resources))

    truth = await happened(resources, behind=first)
    assert back.seqs == truth
    assert back.streams > 3
    assert new.seqs == truth[-len(new.seqs) :]


async def test_an_event_whose_transaction_ends_late_comes_before_its_successors(
    url: str,
    resources: Resources,
    queue: VideoQueue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "COMMIT_WITHIN_S", 30.0)
    first = await newest(resources)
    watcher = Watcher(None)

    async with watching(url, TOKEN, [watcher]) as finish:
        async with resources.database.connection() as connection, connection.transaction():
            await queue.enqueue(TRAM, connection=connection)
            later = await queue.enqueue(TRAM)
            alone = Watcher(str(later.id))
            async with watching(url, TOKEN, [alone]):  # this one is told by now
                while not alone.seqs:  # noqa: ASYNC110  it tells nobody
                    await asyncio.sleep(0.02)
            assert watcher.seqs == []
        await finish(await newest(resources))

    assert watcher.seqs == await happened(resources, behind=first)


async def test_a_number_that_never_comes_holds_nobody_up(
    url: str, resources: Resources, queue: VideoQueue
) -> None:
    watcher = Watcher(None)

    async with watching(url, TOKEN, [watcher]) as finish:
        async with resources.database.connection() as connection:
            await connection.execute("SELECT nextval('job_events_seq_seq')")
        await queue.enqueue(TRAM)
        await finish(await newest(resources))

    assert len(watcher.seqs) == 1


def test_who_was_let_go_is_told_nothing_behind_the_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MAX_BEHIND", 2)
    watcher = hub.Watcher(None, 0)
    at = datetime.now(UTC)
    told = [hub.Progressed(job_id=UUID(int=n), at=at, progress=n) for n in range(4)]

    for event in told[:3]:
        watcher.put(event)
    line = asyncio.run(watcher.take(1))
    watcher.put(told[3])

    assert line == told[:2]
    assert asyncio.run(watcher.take(1)) is None
