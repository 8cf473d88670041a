"""Connections to PostgreSQL, behind poolers or not, and the one place that maps their errors."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from vidgen.errors import DatabaseError

if TYPE_CHECKING:  # asyncpg's classes take parameters in their stubs only
    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.Connection | PoolConnectionProxy

CONNECT_TIMEOUT_S = 10
ACQUIRE_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 30

# What a caller may see when the server goes away, restarts, fails over or has no room.
_AWAY = (
    OSError,
    TimeoutError,
    ssl.SSLError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.QueryCanceledError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # we still talk to the old primary
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# What will not go away by waiting.
_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
    asyncpg.ClientConfigurationError,
)


class Database:
    """
    A bounded pool of connections.

    Args:
        dsn: `postgresql://…`; `sslmode` and friends in the query are honoured.
        size: Most connections at once.
        prepared_statements: Off behind a transaction pooler: each use is then one transaction, so
            that the pooler keeps its statements on one server connection.
    """

    def __init__(self, dsn: str, *, size: int = 10, prepared_statements: bool = True) -> None:
        """Connect to nothing yet; `async with` does."""
        self.dsn = dsn
        self._size = size
        self._prepared_statements = prepared_statements
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None

    async def __aenter__(self) -> Self:
        """Open the pool; the first connection proves that the server answers."""
        try:
            self._pool = await asyncpg.create_pool(
                self.dsn,
                min_size=1,
                max_size=self._size,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=STATEMENT_TIMEOUT_S,
                statement_cache_size=100 if self._prepared_statements else 0,
                server_settings={"application_name": "vidgen"},
            )
        except (*_AWAY, *_REFUSED) as error:
            raise _mapped(error, "open the database") from error
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection, politely if that is quick."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await pool.close()
            except _AWAY:
                pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """
        Lend one connection for one short piece of work.

        Raises:
            DatabaseError: The server is away, or refuses us; what was under way may or may not
                have been committed.
        """
        assert self._pool is not None, "the database is used outside of its `async with`"
        try:
            async with self._pool.acquire(timeout=ACQUIRE_TIMEOUT_S) as connection:
                if self._prepared_statements:
                    yield connection
                else:
                    async with connection.transaction():
                        yield connection
        except (*_AWAY, *_REFUSED) as error:
            raise _mapped(error, "use the database") from error


@asynccontextmanager
async def connect(dsn: str) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """
    Open one connection of its own, safe behind any pooler.

    Raises:
        DatabaseError: The server is away, or refuses us.
    """
    try:
        connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S, statement_cache_size=0)
        try:
            yield connection
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)
    except (*_AWAY, *_REFUSED) as error:
        raise _mapped(error, "reach the database") from error


def _mapped(error: BaseException, deed: str) -> DatabaseError:
    # asyncpg's sentences name host, user and database, never the password.
    reason = str(error) or type(error).__name__
    return DatabaseError(f"could not {deed}: {reason}")
