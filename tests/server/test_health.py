"""Is it alive, is it ready, can the queue be worked on: also while servers are away."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.builders import a_worker
from tests.proxy import Proxy
from tests.server.conftest import Client
from vidgen.resources import Resources
from vidgen.server import health
from vidgen.store import workers

HEALTH = "/api/health/worker"
TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    assert health.CHECK_TIMEOUT_S <= 3  # an orchestrator asks every few seconds
    monkeypatch.setattr(health, "CHECK_TIMEOUT_S", 0.5)


async def answer(client: Client, path: str) -> tuple[int, dict[str, Any]]:
    async with asyncio.timeout(5), client.get(path) as response:
        assert response.content_type == "application/json"
        return response.status, await response.json()


async def test_a_healthy_worker_says_so_in_the_documented_shape(
    stranger: Client, resources: Resources
) -> None:
    async with resources.database.connection() as connection:
        for number in (1, 2):
            await workers.heartbeat(connection, a_worker(number))

    status, body = await answer(stranger, HEALTH)

    latency_ms = body["checks"]["redis"].pop("latencyMs")
    assert isinstance(latency_ms, float)
    assert 0 <= latency_ms < 5000
    assert TIMESTAMP.fullmatch(body["timestamp"])
    age = datetime.now(UTC) - datetime.fromisoformat(body.pop("timestamp"))
    assert abs(age) < timedelta(seconds=10)
    assert (status, body) == (
        200,
        {
            "healthy": True,
            "checks": {
                "redis": {"connected": True},
                "queue": {"accessible": True, "activeWorkers": 2},
            },
        },
    )


@pytest.mark.parametrize("path", [HEALTH, "/readyz"])
@pytest.mark.parametrize("trouble", ["cut", "muted"])
async def test_without_redis_it_is_not_healthy(
    stranger: Client, redis_proxy: Proxy, trouble: str, path: str
) -> None:
    await take_away(redis_proxy, trouble)

    status, body = await answer(stranger, path)

    assert status == 503
    assert body.get("healthy", body.get("ready")) is False
    assert body["checks"]["queue"] == {"accessible": True, "activeWorkers": 0}
    assert body["checks"]["redis"].keys() == {"connected", "error"}
    assert body["checks"]["redis"]["connected"] is False
    assert body["checks"]["redis"]["error"] in {"redis_unavailable", "timeout"}


@pytest.mark.parametrize("path", [HEALTH, "/readyz"])
@pytest.mark.parametrize("trouble", ["cut", "muted"])
async def test_without_postgres_it_is_not_healthy(
    stranger: Client, database_proxy: Proxy, trouble: str, path: str
) -> None:
    await take_away(database_proxy, trouble)

    status, body = await answer(stranger, path)

    assert status == 503
    assert body.get("healthy", body.get("ready")) is False
    assert body["checks"]["redis"]["connected"] is True
    assert body["checks"]["queue"].keys() == {"accessible", "error"}
    assert body["checks"]["queue"]["accessible"] is False
    assert body["checks"]["queue"]["error"] in {"database_unavailable", "timeout"}
    assert "secret" not in str(body)


async def test_it_is_healthy_again_when_all_are_back(
    stranger: Client, redis_proxy: Proxy, database_proxy: Proxy
) -> None:
    for proxy in (redis_proxy, database_proxy):
        await proxy.cut()
    assert (await answer(stranger, HEALTH))[0] == 503
    for proxy in (redis_proxy, database_proxy):
        await proxy.restore()

    async with asyncio.timeout(10):
        while True:
            if (await answer(stranger, HEALTH))[0] == 200:
                return
            await asyncio.sleep(0.05)


async def test_the_process_is_alive_whoever_is_away(
    stranger: Client, redis_proxy: Proxy, database_proxy: Proxy
) -> None:
    for proxy in (redis_proxy, database_proxy):
        await proxy.cut()

    assert await answer(stranger, "/livez") == (200, {"status": "ok"})


async def test_a_ready_process_says_so(stranger: Client) -> None:
    status, body = await answer(stranger, "/readyz")

    assert (status, body["ready"]) == (200, True)
    assert body.keys() == {"ready", "checks"}


async def test_many_may_ask_at_once(stranger: Client) -> None:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(answer(stranger, HEALTH)) for _ in range(60)]

    assert {each.result()[0] for each in asked} == {200}


async def take_away(proxy: Proxy, trouble: str) -> None:
    if trouble == "cut":
        await proxy.cut()
    else:
        proxy.mute()
