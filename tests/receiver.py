"""Somebody's server, which webhooks are sent to."""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook

SECRET = f"whsec_{b64encode(bytes(range(32))).decode()}"
PATIENCE_S = 15

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Call:
    """One webhook as it came."""

    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def event(self, secret: str = SECRET) -> dict[str, Any]:
        """What the official library makes of it, once it has found the signature right."""
        event: dict[str, Any] = Webhook(secret).verify(self.body, dict(self.headers))
        return event


@dataclass(slots=True)
class Receiver:
    """
    A server that takes whatever comes.

    Attributes:
        answer: What it does once it has read a call; None answers 204.
    """

    url: str = ""
    answer: Answer | None = None
    calls: list[Call] = field(default_factory=list)
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, request: web.Request) -> web.StreamResponse:
        call = Call(headers=dict(request.headers), body=await request.read())
        async with self._came:
            self.calls.append(call)
            self._came.notify_all()
        return await self.answer(request) if self.answer else web.Response(status=204)

    async def called(self, times: int = 1) -> list[Call]:
        """All calls, once there were so many."""
        async with asyncio.timeout(PATIENCE_S), self._came:
            await self._came.wait_for(lambda: len(self.calls) >= times)
        return self.calls

    def answers(self, *statuses: int, **headers: str) -> None:
        """Answer so, one call after the other; the last one for ever."""
        left = list(statuses)

        async def answer(_: web.Request) -> web.Response:
            status = left.pop(0) if len(left) > 1 else left[0]
            sent = {name.replace("_", "-"): text for name, text in headers.items()}
            return web.Response(status=status, headers=sent)

        self.answer = answer


@asynccontextmanager
async def receiving(host: str = "127.0.0.1") -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", receiver.take)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0).start()
        receiver.url = f"http://{host}:{runner.addresses[0][1]}/hook"
        yield receiver
    finally:
        await runner.cleanup()
