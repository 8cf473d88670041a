"""Dispatches whose jobs have been claimed leave Redis, many at once: nobody waits for it."""

import asyncio

from vidgen.dispatch import Dispatcher
from vidgen.errors import DispatchError


class Departures:
    """
    Takes off what this process has claimed.

    What could not be taken off is left to arq, at the end of the dispatch.
    """

    def __init__(self, dispatcher: Dispatcher) -> None:
        """Take off nothing yet; `run` does."""
        self._dispatcher = dispatcher
        self._leaving: list[str] = []
        self._is_gone: dict[str, bool] = {}  # those that are under way
        self._rung = asyncio.Event()

    def begin(self, dispatch_id: str) -> None:
        """Its job has been claimed: from here the lease carries the job."""
        self._is_gone[dispatch_id] = False
        self._leaving.append(dispatch_id)
        self._rung.set()

    def end(self, dispatch_id: str) -> bool:
        """It is over; whether nothing of it is left in Redis."""
        return self._is_gone.pop(dispatch_id, False)

    async def run(self) -> None:
        """Take off what there is to take off, until cancelled."""
        while True:
            await self._rung.wait()
            self._rung.clear()
            leaving, self._leaving = self._leaving, []
            try:
                await self._dispatcher.take_off(leaving)
            except DispatchError:
                continue
            self._is_gone |= {id_: True for id_ in leaving if id_ in self._is_gone}
