"""Bodies: no longer, no slower and no more of them than a process can bear."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import pytest
from aiohttp import ClientResponse

from tests.server.conftest import Client
from vidgen.server import body
from vidgen.server.app import operations

WITH_BODY = [(one.method, one.path) for one in operations() if one.body is not None]
ID = "00000000-0000-4000-8000-000000000000"
JSON = {"Content-Type": "application/json"}


async def refused(answer: ClientResponse) -> tuple[int, str]:
    document = await answer.json(content_type=None)
    assert answer.content_type == "application/problem+json"
    return answer.status, document["code"]


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
async def test_only_a_request_for_a_video_may_be_long(
    admin: Client, method: str, path: str
) -> None:
    data = b"[" + b" " * body.SMALL_BYTES + b"]"

    async with admin.request(method, path.replace("{id}", ID), data=data, headers=JSON) as answer:
        status = answer.status

    assert status == (400 if path == "/api/jobs" else 413)


@pytest.mark.parametrize("chunked", [False, True], ids=["told", "chunked"])
async def test_even_a_request_for_a_video_has_an_end(
    admin: Client, monkeypatch: pytest.MonkeyPatch, chunked: bool
) -> None:
    monkeypatch.setattr(body, "LARGE_BYTES", 200_000)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(body.LARGE_BYTES):
            sent += 16_384
            yield b"x" * 16_384

    data: Any = endless() if chunked else b"x" * (body.LARGE_BYTES + 1)
    async with admin.post("/api/jobs", data=data, headers=JSON) as answer:
        assert (await refused(answer))[0] == 413
    assert sent < 64 * 1024 * 1024


async def test_a_body_that_stalls_is_given_up(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "STALL_S", 0.1)

    async def stalling() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(30)

    async with admin.post("/api/jobs", data=stalling(), headers=JSON) as answer:
        assert (await refused(answer))[0] == 408


async def test_a_body_that_drips_is_given_up(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "LARGE_TOTAL_S", 0.3)

    async def dripping() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    async with admin.post("/api/jobs", data=dripping(), headers=JSON) as answer:
        assert (await refused(answer))[0] == 408


async def test_a_compressed_body_is_not_unpacked(admin: Client) -> None:
    bomb = gzip.compress(b" " * 10_000_000)

    async with admin.post(
        "/api/jobs", data=bomb, headers=JSON | {"Content-Encoding": "gzip"}, compress=None
    ) as answer:
        assert (await refused(answer))[0] == 415


async def test_all_bodies_together_have_a_bound_and_give_back_what_they_held(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert admin.app is not None
    held = admin.app[body.BODIES]
    monkeypatch.setattr(body, "HELD_BYTES", 100_000)
    begun = asyncio.Event()
    let_go = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b" " * 90_000
        begun.set()
        await let_go.wait()
        yield b"{}"

    async def first() -> int:
        async with admin.post("/api/jobs", data=slow(), headers=JSON) as answer:
            return answer.status

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        one = group.create_task(first())
        await begun.wait()
        while True:  # until what was sent has been read
            await asyncio.sleep(0.005)
            if held.held_bytes >= 90_000:
                break
        async with admin.post("/api/jobs", data=b" " * 20_000, headers=JSON) as answer:
            assert (await refused(answer))[0] == 503
            assert answer.headers["Retry-After"] == "5"
        let_go.set()

    assert one.result() == 400
    assert held.held_bytes == 0
    async with admin.post("/api/jobs", data=b" " * 20_000, headers=JSON) as answer:
        assert answer.status == 400


async def test_of_strangers_nothing_is_read(
    stranger: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "HELD_BYTES", 0)  # so that any reading would show as 503

    async with stranger.post("/api/jobs", data=BytesIO(b"x" * 50_000_000)) as answer:
        assert answer.status == 401
