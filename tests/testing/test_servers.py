"""The servers of a test run: the given ones are used with care, and each test begins anew."""

import asyncio
import urllib.error
import urllib.request

import pytest

from vidgen import VideoRequest
from vidgen.dev.servers import PostgresServer
from vidgen.errors import SettingsError
from vidgen.queue import VideoQueue
from vidgen.testing import Rule, Servers, assert_enqueued, refute_enqueued

SORA = VideoRequest(provider="sora", prompt="a tram in the rain", seconds=4)


def test_a_database_that_is_not_for_tests_is_left_alone(
    postgres_server: PostgresServer, redis_url: str
) -> None:
    servers = Servers(database_url=postgres_server.url, redis_url=redis_url)

    with pytest.raises(SettingsError, match="'postgres'; wanted: one with a name that says test"):
        servers.start()


def test_a_database_serves_one_run_at_a_time(database_url: str, redis_url: str) -> None:
    with (
        Servers(database_url=database_url, redis_url=redis_url),
        pytest.raises(SettingsError, match="another test run uses 'test_"),
    ):
        Servers(database_url=database_url, redis_url=redis_url).start()

    with Servers(database_url=database_url, redis_url=redis_url):
        pass  # the lock went with its run


def test_emptied_servers_have_no_job_no_script_and_no_bill(
    database_url: str, redis_url: str
) -> None:
    async def enqueue() -> None:
        async with VideoQueue(servers.settings) as queue:
            await queue.enqueue(SORA)
            await assert_enqueued(queue, count=1)

    async def look() -> None:
        async with VideoQueue(servers.settings) as queue:
            await refute_enqueued(queue)

    with Servers(database_url=database_url, redis_url=redis_url) as servers:
        sora = servers.simulated.sora
        sora.script(Rule(deed="list", outcome="500"))
        sora.generate_in(60)
        asyncio.run(enqueue())
        _get(f"{servers.settings.openai_base_url}/videos")
        assert len(sora.received) == 1

        servers.empty()

        asyncio.run(look())
        assert (sora.received, sora.bill) == ([], [])
        assert _get(f"{servers.settings.openai_base_url}/videos") == 200


async def test_a_test_waits_for_a_request_in_its_own_loop(
    database_url: str, redis_url: str
) -> None:
    servers = Servers(database_url=database_url, redis_url=redis_url)
    await asyncio.to_thread(servers.start)
    try:
        sora = servers.simulated.sora
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            waiting = group.create_task(sora.arrived("list"))
            await asyncio.to_thread(_get, f"{servers.settings.openai_base_url}/videos")
            await waiting
        assert [request.method for request in sora.received] == ["GET"]
    finally:
        await asyncio.to_thread(servers.stop)


def _get(url: str) -> int:
    request = urllib.request.Request(url, headers={"Authorization": "Bearer simulated"})  # noqa: S310  our own http address
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
