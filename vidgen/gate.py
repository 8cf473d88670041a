"""So many at once, and of those who wait the most urgent first."""

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count


class Gate:
    """A semaphore whose waiters are let in by urgency."""

    def __init__(self, places: int) -> None:
        """Let *places* in at once."""
        self._free = places
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = count()

    @asynccontextmanager
    async def place(self, before: float) -> AsyncIterator[None]:
        """Hold one place for the length of the context; a smaller *before* goes first."""
        await self._enter(before)
        try:
            yield
        finally:
            self._leave()

    async def _enter(self, before: float) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (before, next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # it was our turn, and we are gone: the next one
            raise

    def _leave(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
