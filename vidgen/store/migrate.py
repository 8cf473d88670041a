"""
Numbered, append-only SQL, applied once each while the release before goes on working.

    one process at a time     an advisory lock, held by a connection of its own
    each missing step         one transaction; what it waits for a table is short, and tried again:
                              everybody who uses the table queues up behind it, heartbeats as well
    indexes on older tables   noted with the step, then built without holding up anybody who writes;
                              one that was interrupted is dropped and built again
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources

import asyncpg
from loguru import logger

from vidgen.errors import DatabaseError
from vidgen.store.pool import Connection, connect

# Any constant will do, as long as every release uses the same one.
LOCK_KEY = 7_306_086_967_106_100_323
# Well below the third of a lease that a heartbeat has.
LOCK_TIMEOUT_S = 1.0
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 5.0
# So long a step tries to get its locks, and a process to be the one that migrates.
PATIENCE_S = 60.0
STEP_TIMEOUT_S = 600
# No worker waits longer for an index before it starts: it works without, only slower.
BUILD_TIMEOUT_S = 120

_COMMENT = re.compile(r"--[^\n]*")
_CREATED = re.compile(r"\bCREATE TABLE (\w+)")
_LATE = re.compile(
    r"\b(CREATE (UNIQUE )?INDEX (?P<built>\w+) ON (?P<table>\w+)\b[^;]*"
    r"|DROP INDEX (?P<dropped>\w+)\s*);"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of `migrations/`."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Tells whether a released file was edited."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def transaction(self) -> str:
        """All but `indexes`."""
        return _LATE.sub(lambda found: "" if self._is_late(found) else found[0], self._plain)

    @property
    def indexes(self) -> list[tuple[str, str]]:
        """
        Names, and what builds or drops an index on a table that was there before, in order: outside
        of any transaction.
        """
        return [
            (
                found["built"] or found["dropped"],
                found[0].rstrip("; \n").replace(" INDEX ", " INDEX CONCURRENTLY ", 1),
            )
            for found in _LATE.finditer(self._plain)
            if self._is_late(found)
        ]

    def _is_late(self, found: re.Match[str]) -> bool:
        return found["table"] not in _CREATED.findall(self._plain)

    @property
    def _plain(self) -> str:
        return _COMMENT.sub("", self.sql)


def migrations() -> list[Migration]:
    """All steps this release knows, in order."""
    folder = resources.files("vidgen.store") / "migrations"
    files = sorted(file.name for file in folder.iterdir() if file.name.endswith(".sql"))
    return [
        Migration(
            version=int(name.split("_", 1)[0]),
            name=name.removesuffix(".sql"),
            sql=(folder / name).read_text(encoding="utf-8"),
        )
        for name in files
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """
    How the schema of a database stands to this release.

    Attributes:
        missing: Steps of this release that were not applied.
        altered: Steps that were applied with another content.
        newer: How many steps of later releases were applied.
        newest: The last step of this release.
    """

    missing: tuple[str, ...]
    altered: tuple[str, ...]
    newer: int
    newest: str


async def standing(connection: Connection) -> Standing:
    """How the schema stands to this release; changes nothing."""
    exists = await connection.fetchval("SELECT to_regclass('vidgen_migrations') IS NOT NULL")
    statement = "SELECT version, sha256 FROM vidgen_migrations"
    rows = await connection.fetch(statement) if exists else []
    applied = {row["version"]: row["sha256"] for row in rows}
    known = migrations()
    versions = {step.version for step in known}
    return Standing(
        missing=tuple(step.name for step in known if step.version not in applied),
        altered=tuple(
            step.name for step in known if applied.get(step.version, step.sha256) != step.sha256
        ),
        newer=len(applied.keys() - versions),
        newest=known[-1].name,
    )


async def migrate(dsn: str) -> list[str]:
    """
    Bring the schema up to this release and return the names of the steps that were missing.

    Any number of processes may call this at once: one works, the others wait for its steps (not for
        its indexes) and find nothing to do.
    A schema newer than this release is left alone (rolling deploys).

    Raises:
        DatabaseError: PostgreSQL cannot be reached, an applied step differs from the file, or
            somebody keeps a table, or the right to migrate, for more than a minute. Steps before
            are done, and the next call goes on behind them.
    """
    async with connect(dsn, timeout_s=STEP_TIMEOUT_S) as connection:
        if not await _missing(connection) and not await _pending(connection):
            return []
        async with _alone(dsn, connection) as is_alone:
            if not is_alone:
                return []
            missing = await _missing(connection)
            for migration in missing:
                await _apply(connection, migration)
            for seq, name, statement in await _pending(connection):
                if not await _build(connection, name, statement):
                    break  # an index is only dropped once there is the one that replaces it
                await connection.execute("DELETE FROM vidgen_pending_indexes WHERE seq = $1", seq)
    return [migration.name for migration in missing]


@asynccontextmanager
async def _alone(dsn: str, connection: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[bool]:
    """
    Keep every other process from migrating; False if another one has done all steps meanwhile.

    The lock belongs to a transaction, so it works through transaction poolers. It is asked for
    again and again: whoever waits for it in a statement would hold up the index that is being built
    by whoever has it.
    """
    loop = asyncio.get_running_loop()
    until, wait_s = loop.time() + PATIENCE_S, FIRST_WAIT_S / 10
    async with connect(dsn) as keeper:
        while True:
            async with keeper.transaction():
                if await keeper.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK_KEY):
                    # A plain query ends the one before, whose snapshot would hold up indexes.
                    await keeper.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
                    yield True
                    return
            if not await _missing(connection):
                yield False
                return
            if loop.time() + wait_s > until:
                raise DatabaseError(
                    f"another process has been migrating for {PATIENCE_S:.0f} s; look for it in"
                    " pg_locks, with locktype = 'advisory'"
                )
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)


async def _missing(connection: "asyncpg.Connection[asyncpg.Record]") -> list[Migration]:
    applied = {}
    if await connection.fetchval("SELECT to_regclass('vidgen_migrations') IS NOT NULL"):
        applied = {
            row["version"]: row["sha256"]
            for row in await connection.fetch("SELECT version, sha256 FROM vidgen_migrations")
        }
    missing = []
    for migration in migrations():
        known = applied.get(migration.version)
        if known is None:
            missing.append(migration)
        elif known != migration.sha256:
            raise DatabaseError(
                f"migration {migration.name} was applied with another content; "
                "released migrations are never edited"
            )
    return missing


async def _apply(connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration) -> None:
    loop = asyncio.get_running_loop()
    until, wait_s = loop.time() + PATIENCE_S, FIRST_WAIT_S
    while True:
        try:
            async with connection.transaction():
                await _step(connection, migration)
        except (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError) as error:
            if loop.time() + wait_s > until:
                raise DatabaseError(
                    f"migration {migration.name} got no lock on a table within {PATIENCE_S:.0f} s:"
                    f" {error}; somebody has been using it all the time, e.g. pg_dump or a long"
                    " transaction (see pg_stat_activity)"
                ) from error
            logger.info("a table is in use, migrating later", step=migration.name, wait_s=wait_s)
        else:
            return
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, LONGEST_WAIT_S)


async def _step(connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration) -> None:
    await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
    await connection.execute(
        """
        CREATE TABLE IF NOT EXISTS vidgen_migrations (
            version    integer PRIMARY KEY,
            name       text NOT NULL,
            sha256     text NOT NULL,
            applied_at timestamptz NOT NULL DEFAULT now()
        );
        -- What steps that are applied have still to be built.
        CREATE TABLE IF NOT EXISTS vidgen_pending_indexes (
            seq       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            name      text NOT NULL,
            statement text NOT NULL
        )
        """
    )
    if migration.transaction.strip():  # there may be indexes only, and asyncpg wants a statement
        await connection.execute(migration.transaction)
    await connection.execute(
        "INSERT INTO vidgen_migrations (version, name, sha256) VALUES ($1, $2, $3)",
        migration.version,
        migration.name,
        migration.sha256,
    )
    await connection.executemany(
        "INSERT INTO vidgen_pending_indexes (name, statement) VALUES ($1, $2)",
        migration.indexes,
    )


async def _pending(
    connection: "asyncpg.Connection[asyncpg.Record]",
) -> list[tuple[int, str, str]]:
    if await connection.fetchval("SELECT to_regclass('vidgen_pending_indexes') IS NULL"):
        return []
    rows = await connection.fetch(
        "SELECT seq, name, statement FROM vidgen_pending_indexes ORDER BY seq"
    )
    return [(row["seq"], row["name"], row["statement"]) for row in rows]


async def _build(
    connection: "asyncpg.Connection[asyncpg.Record]", name: str, statement: str
) -> bool:
    """
    Build or drop an index, whatever an earlier try left of it. False if that takes too long now:
    whoever starts next goes on.
    """
    index = await connection.fetchrow(
        """
        SELECT indisvalid AS is_valid, EXISTS (
            SELECT FROM pg_stat_progress_create_index WHERE index_relid = indexrelid
        ) AS is_being_built
        FROM pg_index WHERE indexrelid = to_regclass($1)
        """,
        name,
    )
    if index is not None and index["is_being_built"]:
        return False  # by a process that died, and its server does not know yet
    wanted, is_there = statement.startswith("CREATE"), index is not None
    try:
        async with asyncio.timeout(BUILD_TIMEOUT_S):
            if index is not None and not (wanted and index["is_valid"]):
                await connection.execute(f"DROP INDEX CONCURRENTLY {name}")
                is_there = False
            if wanted and not is_there:
                await connection.execute(statement)
    except TimeoutError:
        logger.warning("index not built yet, the next start goes on with it", index=name)
        return False
    return True
