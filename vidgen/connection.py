"""
Connections to Redis that say so when they were cut.

Under uvloop redis 5 lets a bare RuntimeError out when it writes to a connection whose other end is
gone ("the handler is closed"), where asyncio raises an OSError. Nobody tries again after that, and
it has ended workers. Drop when redis-py maps it.
"""

from collections.abc import Iterable
from typing import TypeVar

from redis.asyncio import ConnectionPool
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError

Pool = TypeVar("Pool", bound=ConnectionPool)


class _Telling(AbstractConnection):
    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        try:
            await super().send_packed_command(command, check_health)
        except RuntimeError as error:
            # redis has closed what is left of it, so that the next try connects.
            raise RedisConnectionError(f"the connection was cut: {error}") from error


class _Plain(_Telling, Connection):
    pass


class _Ssl(_Telling, SSLConnection):
    pass


class _Unix(_Telling, UnixDomainSocketConnection):
    pass


class _Managed(_Telling, SentinelManagedConnection):
    pass


class _ManagedSsl(_Telling, SentinelManagedSSLConnection):
    pass


_TELLING = {
    Connection: _Plain,
    SSLConnection: _Ssl,
    UnixDomainSocketConnection: _Unix,
    SentinelManagedConnection: _Managed,
    SentinelManagedSSLConnection: _ManagedSsl,
}


def telling(pool: Pool) -> Pool:
    """Have *pool* make connections of ours; it must not have made any yet."""
    pool.connection_class = _TELLING[pool.connection_class]
    return pool
