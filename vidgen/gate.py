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
        self._passed = 0

    @asynccontextmanager
    async def place(self, before: float) -> AsyncIterator[None]:
        """Hold one place for the length of the context; a smaller *before* goes first."""
        await self.enter(before)
        try:
            yield
        finally:
            self.leave()

    async def enter(self, before: float, patience_s: float | None = None) -> None:
        """
        Take one place, to be given back by `leave`.

        A line may be long, and is no reason to go away as long as it moves.

        Args:
            patience_s: For so long nobody may have passed; None waits for ever.

        Raises:
            TimeoutError: Nobody did.
        """
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (before, next(self._numbers), turn))
        try:
            if patience_s is None:
                await turn
            else:
                await self._patiently(turn, patience_s)
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(passed=False)  # it was our turn, and we are gone: the next one
            turn.cancel()
            raise

    def leave(self, *, passed: bool = True) -> None:
        """Give the place back; not *passed* if it was of no use, so that no line moves by it."""
        self._passed += passed
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def _patiently(self, turn: asyncio.Future[None], patience_s: float) -> None:
        while not turn.done():
            passed = self._passed
            await asyncio.wait({turn}, timeout=patience_s)
            if passed == self._passed and not turn.done():
                turn.cancel()
                raise TimeoutError(f"nobody passed for {patience_s} s")
