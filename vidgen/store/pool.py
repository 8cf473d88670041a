"""Connections to PostgreSQL, behind poolers or not, and the one place that maps their errors."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from vidgen.errors import DatabaseError, DatabaseRefusedError, InternalError
from vidgen.gate import Gate

if TYPE_CHECKING:  # asyncpg's classes take parameters in their stubs only
    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.Connection | PoolConnectionProxy

CONNECT_TIMEOUT_S = 10
ACQUIRE_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 30
# So often a connection is used before asyncpg has a look at it.
WARM_USES = 1000
# One that nobody needed for so long is closed. Networks drop idle ones without a word, some after
# four minutes: whoever then uses one hears nothing until the statement times out.
WARM_S = 180.0

# What a caller may see when the server goes away, restarts, fails over or has no room.
_AWAY = (
    OSError,
    TimeoutError,
    ssl.SSLError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,  # shutdown, start, crash, cancelled statement
    asyncpg.InsufficientResourcesError,  # connections, memory, disk
    asyncpg.TransactionRollbackError,  # deadlock, serialization: another one was served first
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,  # how poolers report nearly everything
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.ReadOnlySQLTransactionError,  # we still talk to the old primary
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    # A newer release migrated the schema meanwhile: once more, with statements prepared anew.
    asyncpg.InvalidCachedStatementError,
    asyncpg.OutdatedSchemaCacheError,
)
# What says that this server is not, or not much longer, the one to talk to: after a fail-over the
# same address leads to another one, but only new connections get there.
_WRONG_SERVER = (
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.PostgresConnectionError,
)
# What will not go away by waiting.
_UNMIGRATED = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError)
_UNPREPARED = (asyncpg.DuplicatePreparedStatementError, asyncpg.InvalidSQLStatementNameError)
_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    *_UNMIGRATED,
    *_UNPREPARED,
)


class Urgency(IntEnum):
    """
    Who goes first when all connections are in use: measured with ten thousand jobs on a machine
    that was busy with others, heartbeats and receipts came too late behind as many claims.
    """

    LEASE = 0  # one that is not renewed in time stops all jobs of a process
    RECEIPT = 1  # paid for, and nobody else knows it yet
    USUAL = 2
    LATER = 3  # it begins more work: once what is under way has been written


@dataclass(slots=True)
class _Taken:
    """
    A connection of asyncpg's pool, for several pieces of work one after the other.

    To take it and to give it back makes a task, two timers and two contexts each time: measured,
    20 µs of CPU, as much as a small statement. So asyncpg does not see when it was used, and we
    close it ourselves when it falls idle.
    """

    connection: "PoolConnectionProxy[asyncpg.Record]"
    generation: int
    uses: int = 0
    used_at: float = 0.0


class Database:
    """
    A bounded pool of connections.

    Args:
        dsn: `postgresql://…`; `sslmode` and friends in the query are honoured, so are several
            hosts with `target_session_attrs=read-write`.
        size: Most connections at once.
        prepared_statements: Off behind a transaction pooler: each use is then one transaction, so
            that the pooler keeps its statements on one server connection.
    """

    def __init__(self, dsn: str, *, size: int = 10, prepared_statements: bool = True) -> None:
        """Connect to nothing yet; `async with` does."""
        self.dsn = dsn
        self._size = size
        self._prepared_statements = prepared_statements
        self._line = Gate(size)
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._warm: list[_Taken] = []  # the one that was used last is the last, and taken first
        self._cooling: asyncio.TimerHandle | None = None
        self._generation = 0

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
                reset=_as_it_is,
            )
        except (*_AWAY, *_REFUSED) as error:
            raise _mapped(error, "reach", self.dsn) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection, politely if that is quick."""
        if self._pool is not None:
            pool, self._pool = self._pool, None
            if self._cooling is not None:
                self._cooling.cancel()
                self._cooling = None
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    while self._warm:
                        await pool.release(self._warm.pop().connection)
                    await pool.close()
            except _AWAY:
                pool.terminate()

    @asynccontextmanager
    async def connection(self, urgency: Urgency = Urgency.USUAL) -> AsyncIterator[Connection]:
        """
        Lend one connection for one short piece of work.

        Whoever waits for one waits up to a minute, as long as others get theirs.

        Raises:
            DatabaseError: The server is away, or refuses us; what was under way may or may not
                have been committed.
        """
        assert self._pool is not None, "the database is used outside of its `async with`"
        try:
            async with self._acquired(self._pool, urgency) as connection:
                if self._prepared_statements:
                    yield connection
                else:
                    async with _transaction(connection):
                        yield connection
        except (*_AWAY, *_REFUSED) as error:
            raise _mapped(error, "use", self.dsn) from error
        except asyncpg.PostgresError as error:
            # Its detail may hold the whole row, with the prompt: neither log nor caller sees it.
            raise InternalError(
                f"PostgreSQL refused a statement: {type(error).__name__}"
                f" {getattr(error, 'constraint_name', None) or ''}".rstrip()
            ) from None

    @asynccontextmanager
    async def _acquired(
        self, pool: "asyncpg.Pool[asyncpg.Record]", urgency: Urgency
    ) -> AsyncIterator[Connection]:
        try:
            await self._line.enter(urgency, ACQUIRE_TIMEOUT_S)
        except TimeoutError as error:
            raise self._exhausted() from error
        served = is_clean = False
        try:
            taken = await self._taken(pool)
            try:
                served = True
                yield taken.connection
                is_clean = True
            except (asyncio.CancelledError, TimeoutError):
                served = False
                # asyncpg would ask the server to stop and wait for its answer, for ten seconds and
                # more if it hangs: a worker must know sooner that its lease has run out.
                _terminate(taken.connection)
                raise
            except _WRONG_SERVER:
                served = False
                _terminate(taken.connection)
                await self._expire(pool)  # the idle ones lead there, too
                raise
            except _AWAY:
                served = False
                raise
            finally:
                await self._give_back(pool, taken, is_clean=is_clean)
        finally:
            self._line.leave(passed=served)

    async def _taken(self, pool: "asyncpg.Pool[asyncpg.Record]") -> "_Taken":
        while self._warm:
            taken = self._warm.pop()
            with suppress(asyncpg.InterfaceError):  # it was cut, and asyncpg has taken it away
                if not taken.connection.is_closed():
                    return taken
                await pool.release(taken.connection)
        generation = self._generation
        try:
            return _Taken(await pool.acquire(timeout=ACQUIRE_TIMEOUT_S), generation)
        except TimeoutError as error:
            raise self._exhausted() from error

    async def _give_back(
        self, pool: "asyncpg.Pool[asyncpg.Record]", taken: "_Taken", *, is_clean: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        taken.uses, taken.used_at = taken.uses + 1, loop.time()
        is_fresh = taken.generation == self._generation and taken.uses < WARM_USES
        if is_clean and is_fresh and pool is self._pool:
            self._warm.append(taken)
            if self._cooling is None:
                self._cooling = loop.call_later(WARM_S, self._cool, loop)
        else:
            await pool.release(taken.connection)

    def _cool(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close those that nobody needed for long, as asyncpg does with those that it has."""
        self._cooling = None
        while self._warm and self._warm[0].used_at <= loop.time() - WARM_S:
            _terminate(self._warm.pop(0).connection)
        if self._warm:
            self._cooling = loop.call_at(self._warm[0].used_at + WARM_S, self._cool, loop)

    async def _expire(self, pool: "asyncpg.Pool[asyncpg.Record]") -> None:
        self._generation += 1
        while self._warm:
            _terminate(self._warm.pop().connection)
        await pool.expire_connections()

    def _exhausted(self) -> DatabaseError:
        return DatabaseError(
            f"no connection to {_server(self.dsn)} was free or could be made in time;"
            f" at most {self._size} are used at once"
        )


def _terminate(connection: Connection) -> None:
    with suppress(asyncpg.InterfaceError):  # it has gone by itself, and out of the pool
        connection.terminate()


async def _as_it_is(_: Connection) -> None:
    """
    Nothing is to be put back: we set nothing, lock nothing and listen to nothing beyond a
    transaction. asyncpg's own reset asks the server, and costs as much as one more statement.
    """


@asynccontextmanager
async def _transaction(connection: Connection) -> AsyncIterator[None]:
    """As asyncpg's own, but whoever is cancelled does not wait for a rollback."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    except TimeoutError:
        raise
    except Exception:
        await transaction.rollback()
        raise
    else:
        await transaction.commit()


@asynccontextmanager
async def connect(
    dsn: str, *, timeout_s: float = STATEMENT_TIMEOUT_S
) -> "AsyncIterator[asyncpg.Connection[asyncpg.Record]]":
    """
    Open one connection of its own, safe behind any pooler.

    Args:
        timeout_s: For each statement.

    Raises:
        DatabaseError: The server is away, or refuses us.
    """
    try:
        connection = await asyncpg.connect(
            dsn, timeout=CONNECT_TIMEOUT_S, command_timeout=timeout_s, statement_cache_size=0
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)
    except (*_AWAY, *_REFUSED) as error:
        raise _mapped(error, "use", dsn) from error


def _mapped(error: BaseException, deed: str, dsn: str) -> DatabaseError:
    # asyncpg's sentences name host, user and database, never the password.
    reason = "no answer in time" if isinstance(error, TimeoutError) else str(error)
    if isinstance(error, FileNotFoundError):
        reason += "; look at sslrootcert, sslcert and sslkey in the address"
    elif isinstance(error, _UNMIGRATED):
        reason += "; run `vidgen migrate`"
    elif isinstance(error, _UNPREPARED):
        reason += "; behind a transaction pooler, set VIDGEN_PREPARED_STATEMENTS=off"
    kind = DatabaseRefusedError if isinstance(error, _REFUSED) else DatabaseError
    return kind(f"could not {deed} {_server(dsn)}: {reason or type(error).__name__}")


def _server(dsn: str) -> str:
    return f"PostgreSQL at {urlsplit(dsn).netloc.rpartition('@')[2]}"
