"""Numbered, append-only SQL, applied once each under one advisory lock."""

import hashlib
from dataclasses import dataclass
from importlib import resources

import asyncpg

from vidgen.errors import DatabaseError
from vidgen.store.pool import Connection, connect

# Any constant will do, as long as every release uses the same one.
LOCK_KEY = 7_306_086_967_106_100_323
LOCK_TIMEOUT_S = 60
STEP_TIMEOUT_S = 600  # an index on a big table takes its time


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

    Any number of processes may call this at once: one works, the others wait and find nothing
        to do.
    A schema newer than this release is left alone (rolling deploys).

    Raises:
        DatabaseError: PostgreSQL cannot be reached, or an applied step differs from the file.
    """
    async with (
        connect(dsn, timeout_s=STEP_TIMEOUT_S) as connection,
        connection.transaction(),
    ):
        await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_S}s'")
        # Held to the end of the transaction, so it works through transaction poolers too.
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK_KEY)
        await connection.execute(
            """
            CREATE TABLE IF NOT EXISTS vidgen_migrations (
                version    integer PRIMARY KEY,
                name       text NOT NULL,
                sha256     text NOT NULL,
                applied_at timestamptz NOT NULL DEFAULT now()
            )
            """
        )
        applied = {
            row["version"]: row["sha256"]
            for row in await connection.fetch("SELECT version, sha256 FROM vidgen_migrations")
        }
        return [
            migration.name
            for migration in migrations()
            if await _step(connection, migration, applied)
        ]


async def _step(
    connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration, applied: dict[int, str]
) -> bool:
    known = applied.get(migration.version)
    if known == migration.sha256:
        return False
    if known is not None:
        raise DatabaseError(
            f"migration {migration.name} was applied with another content; "
            "released migrations are never edited"
        )
    await connection.execute(migration.sql)
    await connection.execute(
        "INSERT INTO vidgen_migrations (version, name, sha256) VALUES ($1, $2, $3)",
        migration.version,
        migration.name,
        migration.sha256,
    )
    return True
