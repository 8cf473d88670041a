"""
Many who watch one server by server-sent events, in a process of their own:
`python -m tests.bench.watchers PLAN`. `api.py` writes the plan, and says the last number on stdin.

Each notes the numbers of the events that it is told, as they come. Some hang up now and then and
go on behind `Last-Event-ID`; some read slowly, so that the server has to wait for them.
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import orjson

AGAIN_S = 0.05
SLOW_S = 0.002  # between two lines
ABRUPT_AFTER = (5, 40)  # events, until somebody hangs up
READ_BYTES = 4096
PATIENCE_S = 120.0
FINAL = frozenset({"completed", "failed", "cancelled"})


@dataclass(slots=True)
class Watcher:
    """
    One who watches.

    Attributes:
        job_id: Whose events; None for all.
        seqs: The numbers of the events, in the order in which they came.
        streams: How often it had to begin.
    """

    job_id: str | None
    hangs_up: bool = False
    is_slow: bool = False
    seqs: list[int] = field(default_factory=list)
    streams: int = 0
    began: asyncio.Event = field(default_factory=asyncio.Event)
    until: int | None = None
    _is_over: bool = False

    async def watch(self, session: aiohttp.ClientSession) -> None:
        """Follow until the job is final, or the event *until* was told."""
        path = "/api/events" if self.job_id is None else f"/api/jobs/{self.job_id}/events"
        while not self.is_done():
            with suppress(aiohttp.ClientError):  # what was told stays told
                await self._follow(session, path)
            await asyncio.sleep(AGAIN_S)

    def is_done(self) -> bool:
        """Whether there is nothing left to be told."""
        if self.job_id is not None:
            return self._is_over
        return self.until is not None and bool(self.seqs) and max(self.seqs) >= self.until

    async def _follow(self, session: aiohttp.ClientSession, path: str) -> None:
        last = str(self.seqs[-1]) if self.seqs else None
        headers = {"Last-Event-ID": last} if last else {}
        left = random.randint(*ABRUPT_AFTER) if self.hangs_up else None
        async with session.get(path, headers=headers) as answer:
            answer.raise_for_status()
            self.streams += 1
            if answer.status == 204:
                self._is_over = True
                return
            async for event in _events(answer, slowly=self.is_slow):
                if event is None:
                    self.began.set()
                    continue
                if "id" in event:
                    self.seqs.append(int(event["id"]))
                    left = None if left is None else left - 1
                self._is_over = self.job_id is not None and event["event"] in FINAL
                if self.is_done() or left == 0:
                    return


async def _events(
    answer: aiohttp.ClientResponse, *, slowly: bool
) -> AsyncIterator[dict[str, str] | None]:
    """The events of a stream; None for blocks that hold none."""
    event: dict[str, str] = {}
    async for line in answer.content:
        if slowly:
            await asyncio.sleep(SLOW_S)
        text = line.decode().rstrip("\n")
        if text:
            name, _, value = text.partition(": ")
            event[name] = value
            continue
        yield event if "event" in event else None
        event = {}


def verdict(told: Sequence[int], truth: Sequence[int]) -> dict[str, int]:
    """What is wrong with the numbers that one was *told*, of those that there were."""
    return {
        "missing": len(set(truth) - set(told)),
        "twice": len(told) - len(set(told)),
        "foreign": len(set(told) - set(truth)),
        "disordered": sum(one > other for one, other in pairwise(told)),
    }


def crowd(job_ids: Sequence[str], *, alone: int, of_all: int) -> list[Watcher]:
    """Watchers of single jobs and of all; of each kind a tenth hangs up, and a tenth is slow."""
    single = [Watcher(job_ids[number % len(job_ids)]) for number in range(alone)]
    every = [Watcher(None) for _ in range(of_all)]
    for some in (single, every):
        for number, watcher in enumerate(some):
            watcher.hangs_up = number % 10 == 3
            watcher.is_slow = number % 10 == 7
    return [*single, *every]


@asynccontextmanager
async def watching(
    url: str, token: str, watchers: Sequence[Watcher]
) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """
    Watch with all of *watchers*, from when each has begun; call what is given with the number of
    the last event to let them end.
    """
    session = aiohttp.ClientSession(
        url,
        headers={"Authorization": f"Bearer {token}"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=PATIENCE_S),
        read_bufsize=READ_BYTES,
    )

    async def finish(last: int) -> None:
        for watcher in watchers:
            watcher.until = last
        with suppress(TimeoutError):  # who is not done then has missed something
            async with asyncio.timeout(PATIENCE_S):
                while not all(watcher.is_done() for watcher in watchers):  # noqa: ASYNC110  they tell nobody
                    await asyncio.sleep(AGAIN_S)

    async with session, asyncio.TaskGroup() as group:
        tasks = [group.create_task(watcher.watch(session)) for watcher in watchers]
        async with asyncio.timeout(PATIENCE_S):
            for watcher in watchers:
                await watcher.began.wait()
        try:
            yield finish
        finally:
            for task in tasks:
                task.cancel()


async def _main(plan: dict[str, Any]) -> None:
    watchers = crowd(plan["job_ids"], alone=plan["alone"], of_all=plan["of_all"])
    async with watching(plan["url"], plan["token"], watchers) as finish:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await finish(int(await asyncio.to_thread(sys.stdin.readline)))
    told = [{"job_id": one.job_id, "seqs": one.seqs, "streams": one.streams} for one in watchers]
    sys.stdout.write(orjson.dumps(told).decode() + "\n")


if __name__ == "__main__":
    asyncio.run(_main(orjson.loads(Path(sys.argv[1]).read_bytes())))
