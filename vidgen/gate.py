"""So many at once, and of those who wait the most urgent first."""

import asyncio
import heapq
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

# Behind ever more urgent ones a line moves for ever.
LONGEST_PATIENCE = 6


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

        A line may be long, and is no reason to go away at once as long as it moves.

        Args:
            patience_s: For so long nobody may have passed, and six times as long at most is waited;
                None waits for ever.

        Raises:
            TimeoutError: Patience is at its end.
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
        for _ in range(LONGEST_PATIENCE):
            passed = self._passed
            await asyncio.wait({turn}, timeout=patience_s)
            if turn.done():
                return
            if passed == self._passed:
                break
        turn.cancel()
        raise TimeoutError("it was not our turn in time")


class SharedGate:
    """
    A gate that no sharer fills: whoever has as many places as are free waits.

    One alone gets half of them, the next one half of what it left, and so on: a newcomer finds a
    place unless many others are inside already.
    """

    def __init__(self, places: int) -> None:
        """Let *places* in at once."""
        self._free = places
        self._inside: Counter[str] = Counter()
        self._waiting: dict[str, list[tuple[float, int, asyncio.Future[None]]]] = {}
        self._numbers = count()

    async def enter(self, sharer: str, before: float) -> None:
        """Take one place, to be given back by `leave`; a smaller *before* goes first."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._waiting.setdefault(sharer, [])
        heapq.heappush(line, (before, next(self._numbers), turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave(sharer)  # it was our turn, and we are gone: the next one
            turn.cancel()
            raise

    def leave(self, sharer: str) -> None:
        """Give a place of *sharer* back."""
        self._inside[sharer] -= 1
        if not self._inside[sharer]:
            del self._inside[sharer]
        self._free += 1
        self._admit()

    def _admit(self) -> None:
        """Let in who may enter, the most urgent first."""
        while heads := [
            (line[0], sharer)
            for sharer, line in self._waiting.items()
            if self._inside[sharer] < self._free
        ]:
            (_, _, turn), sharer = min(heads)
            heapq.heappop(self._waiting[sharer])
            if not self._waiting[sharer]:
                del self._waiting[sharer]
            if not turn.done():
                self._inside[sharer] += 1
                self._free -= 1
                turn.set_result(None)
