"""A caller's trace goes on in what a request does."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from tests.server.conftest import TOKEN
from tests.spans import ENDPOINT, recording
from vidgen import tracing
from vidgen.resources import Resources
from vidgen.server.app import build
from vidgen.settings import Settings
from vidgen.tracing import Tracing

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def on() -> Iterator[Tracing]:
    with recording():
        yield tracing.of(Settings(otlp_endpoint=ENDPOINT))


async def seen(resources: Resources, **headers: str) -> str:
    """The traceparent that a handler finds itself in."""

    async def tell(_: web.Request) -> web.Response:
        return web.Response(text=str(resources.tracing.traceparent()))

    app = build(resources)
    app.router.add_get("/where", tell)
    headers["Authorization"] = f"Bearer {TOKEN}"
    async with (
        TestClient(TestServer(app)) as client,
        client.get("/where", headers=headers) as response,
    ):
        return await response.text()


async def test_the_header_of_a_request_is_heeded(resources: Resources, on: Tracing) -> None:
    traced = replace(resources, tracing=on)

    assert await seen(traced, traceparent=TRACEPARENT) == TRACEPARENT
    assert await seen(traced) == "None"
    assert await seen(traced, traceparent="nonsense") == "None"


async def test_without_an_endpoint_it_is_not(resources: Resources) -> None:
    assert await seen(resources, traceparent=TRACEPARENT) == "None"
