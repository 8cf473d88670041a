"""A vendor that answers everything alike, for tests of what each of its codes means."""

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import orjson
from aiohttp import web

from tests.providers.test_http import listening
from vidgen import catalog
from vidgen.errors import ProviderError
from vidgen.job import Operation
from vidgen.providers.protocol import Credential, Provider, Submission
from vidgen.providers.registry import ProvidersConfig, build
from vidgen.testing.provider_wire import KEY, Format


@dataclass(slots=True, kw_only=True)
class Saying:
    """One answer for every question, and the provider that asks them."""

    format: Format
    provider: Provider
    credential: Credential
    url: str
    status: int = 200
    body: object = None
    asked: list[str] = field(default_factory=list)

    async def error(self, call: Awaitable[object]) -> type[ProviderError] | None:
        """The class of error that *call* ends with, None if it ends well."""
        try:
            await call
        except ProviderError as caught:
            return type(caught)
        return None

    async def submit(self, status: int, body: object) -> type[ProviderError] | None:
        self.status, self.body = status, body
        submission = Submission(job_id=uuid4(), attempt=1, request=self.format.request)
        return await self.error(self.provider.submit(submission, self.credential))

    async def look(self, status: int, body: object, **extra: Any) -> type[ProviderError] | None:
        self.status, self.body = status, body
        return await self.error(self.provider.poll(self.operation(**extra), self.credential))

    def operation(self, **extra: Any) -> Operation:
        return Operation(
            provider=self.format.request.provider,
            id="task-1",
            endpoint=self.url,
            model=self.format.request.model or "",
            credential_id="server",
            extra=extra,
        )


@asynccontextmanager
async def saying(wanted: Format) -> AsyncIterator[Saying]:
    """A vendor that speaks *wanted* and says what the test wants it to say."""
    found: Saying

    async def answer(request: web.Request) -> web.StreamResponse:
        found.asked.append(f"{request.method} {request.path_qs}")
        return web.Response(
            status=found.status, body=orjson.dumps(found.body), content_type="application/json"
        )

    async with listening(answer) as url:
        vendor = catalog.vendor(wanted.request.provider)
        addresses = {each.base_url_variable: url for each in vendor.interfaces}
        keys = {name: KEY for each in vendor.interfaces for name in each.keys}
        providers = build(ProvidersConfig.of(**addresses, **keys))
        found = Saying(
            format=wanted,
            provider=providers.get(vendor.name),
            credential=providers.credential(vendor.name, wanted.request.model or ""),
            url=url,
        )
        yield found
        await providers.aclose()
