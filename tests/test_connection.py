"""Connections that were cut, under the loop that workers run in."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import uvloop
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import Connection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError

from tests.proxy import proxy_of
from tests.test_dispatch import PASSWORD, QUEUE, close_sentinels, locked_valkey
from vidgen.dispatch import Dispatcher, arq_settings, open_redis
from vidgen.worker import arq_redis

__all__ = ["locked_valkey"]

CUT_TIMEOUT_S = 5


def run(story: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(story)


@asynccontextmanager
async def worker_redis(url: str) -> AsyncIterator[Redis]:
    """The connections of arq's worker."""
    redis = arq_redis(arq_settings(url), QUEUE)
    try:
        yield redis
    finally:
        await redis.aclose(close_connection_pool=True)
        await close_sentinels(redis)


def pools_of(redis: Redis) -> list[ConnectionPool]:
    """The pool of *redis*, and those of the Sentinels that it asks."""
    manager = getattr(redis.connection_pool, "sentinel_manager", None)
    sentinels = manager.sentinels if manager else []
    return [redis.connection_pool, *(sentinel.connection_pool for sentinel in sentinels)]


async def abort(connection: Any) -> None:
    """Cut *connection* and wait until uvloop has noticed."""
    transport = connection._writer.transport
    transport.abort()
    async with asyncio.timeout(CUT_TIMEOUT_S):
        while "closed=True" not in repr(transport):  # noqa: ASYNC110  uvloop tells nobody
            await asyncio.sleep(0)


async def cut_is_told(url: str) -> None:
    for opened in (open_redis, worker_redis):
        async with opened(url) as redis:
            for pool in pools_of(redis):
                connection = await pool.get_connection()
                await abort(connection)

                with pytest.raises(RedisConnectionError, match="the connection was cut"):
                    await connection.send_command("PING")

                await pool.release(connection)
            assert await redis.ping()


def test_a_cut_is_an_error_of_redis_over_tcp(redis_url: str) -> None:
    run(cut_is_told(redis_url))


def test_a_cut_is_an_error_of_redis_over_a_socket(locked_valkey: tuple[int, Path]) -> None:
    _, socket = locked_valkey

    run(cut_is_told(f"unix://:{quote(PASSWORD, safe='')}@{socket}"))


def test_a_cut_is_an_error_of_redis_through_sentinels(sentinel_url: str) -> None:
    run(cut_is_told(sentinel_url))


def test_a_cut_is_an_error_of_redis_over_tls(redis_url: str, tmp_path: Path) -> None:
    certificate, key = certified(tmp_path)

    async def story() -> None:
        async with tls_in_front_of(redis_url, certificate, key) as url:
            for opened in (open_redis, worker_redis):
                async with opened(url) as redis:
                    connection = await redis.connection_pool.get_connection()
                    connection._writer.transport.abort()
                    with pytest.raises(RedisConnectionError):
                        await ask(connection)
                    await redis.connection_pool.release(connection)
                    assert await redis.ping()

    run(story())


async def ask(connection: Any) -> None:
    await connection.send_command("PING")
    await connection.read_response()


def certified(folder: Path) -> tuple[Path, Path]:
    """A certificate that nobody else trusts, and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


@asynccontextmanager
async def tls_in_front_of(url: str, certificate: Path, key: Path) -> AsyncIterator[str]:
    """A way to *url* by TLS, which Valkey itself may have been built without."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with proxy_of(urlsplit(url).port or 0, ssl=context) as proxy:
        yield f"rediss://127.0.0.1:{proxy.port}/0?ssl_cert_reqs=none"


def test_what_is_asked_again_and_again_while_connections_are_reset_is_answered(
    redis_url: str,
) -> None:
    async def story() -> None:
        async with proxy_of(urlsplit(redis_url).port or 0) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}/0"
            async with open_redis(url) as ours, worker_redis(url) as arqs:
                for _ in range(100):
                    proxy.reset()
                    await Dispatcher(ours, QUEUE).ping()
                    proxy.reset()
                    assert await arqs.ping()

    run(story())


def test_a_subscription_that_was_reset_goes_on(redis_url: str) -> None:
    async def story() -> None:
        async with proxy_of(urlsplit(redis_url).port or 0) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}/0"
            async with open_redis(url) as redis, redis.pubsub() as pubsub:
                await pubsub.subscribe("one")
                for name in ("two", "three", "four"):
                    proxy.reset()
                    await abort(pubsub.connection)
                    await pubsub.subscribe(name)

                assert pubsub.channels.keys() == {b"one", b"two", b"three", b"four"}

    run(story())


async def test_commands_are_packed_as_redis_packs_them(redis_url: str) -> None:
    async with open_redis(redis_url) as redis:
        pool: Any = redis.connection_pool
        ours = pool.make_connection()
        theirs = Connection()

        for command in (
            ("PUBSUB NUMSUB", "vidgen:job:1", b"\xff"),
            ("ZADD", "queue", 1_764_141_000_123, "ü", 0.1),
            ("PING", memoryview(b"not for hiredis")),
        ):
            packed = b"".join(ours.pack_command(*command))
            assert packed == b"".join(theirs.pack_command(*command))
        with pytest.raises(DataError):
            ours.pack_command("SET", "key", True)


async def test_a_connection_with_an_answer_that_nobody_waits_for_is_made_anew(
    redis_url: str,
) -> None:
    async with open_redis(redis_url) as redis:
        pool = redis.connection_pool
        connection = await pool.get_connection()
        await connection.send_command("PING")
        async with asyncio.timeout(CUT_TIMEOUT_S):
            while connection._socket_is_empty():  # noqa: ASYNC110  the stream tells nobody
                await asyncio.sleep(0)
        await pool.release(connection)

        assert await redis.echo("mine") == b"mine"


async def test_more_commands_than_connections_are_answered_in_their_order(redis_url: str) -> None:
    async with open_redis(redis_url) as redis:
        redis.connection_pool.max_connections = 1
        answered: list[int] = []

        async def ask_for(number: int) -> None:
            await redis.ping()
            answered.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(ask_for(number))

        assert answered == list(range(50))
        assert len(redis.connection_pool._available_connections) == 1
