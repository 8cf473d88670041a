"""PostgreSQL, its schema, Redis, its memory, and who works."""

from typing import Any

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError

from vidgen.dispatch import open_redis, redis_errors
from vidgen.doctor.finding import Finding, ok, problem, warning
from vidgen.errors import DatabaseError, DatabaseRefusedError, DispatchError
from vidgen.settings import Settings
from vidgen.store import budgets, inspection, jobs, migrate, steering
from vidgen.store import workers as processes
from vidgen.store.pool import connect

POSTGRESQL, SCHEMA = "postgresql", "schema"
REDIS, EVICTION = "redis", "redis memory"
WORKERS, BUDGETS = "workers", "budgets"

MIN_POSTGRESQL = 140000
MIN_REDIS = (6, 2)
FULL = 0.9
NO_EVICTION = "noeviction"
TIMEOUT_S = 20.0
WAITS_LONG_S = 900.0


async def postgresql(settings: Settings) -> Finding:
    """Whether PostgreSQL lets us in, is new enough, takes writes and has room for us."""
    try:
        async with connect(settings.database_url, timeout_s=TIMEOUT_S) as connection:
            facts = await inspection.server_facts(connection)
    except DatabaseRefusedError as error:
        return problem(
            POSTGRESQL,
            error.message,
            "correct user, password and database in DATABASE_URL; `createdb` makes a missing one",
        )
    except DatabaseError as error:
        return problem(
            POSTGRESQL,
            error.message,
            "is it running, and do host and port of DATABASE_URL lead to it from here?",
        )
    if facts.version_number < MIN_POSTGRESQL:
        wanted = f"it must be {MIN_POSTGRESQL // 10_000} or newer"
        return problem(POSTGRESQL, f"version {facts.version}: {wanted}", "upgrade it")
    if facts.read_only:
        return problem(
            POSTGRESQL,
            f"version {facts.version}, and it takes no writes",
            "point DATABASE_URL at the primary, not at a standby",
        )
    left = facts.max_connections - facts.connections
    if left < settings.database_pool_size:
        return warning(
            POSTGRESQL,
            f"version {facts.version}; {facts.connections} of {facts.max_connections} connections"
            f" are taken, and one process wants up to {settings.database_pool_size}",
            "raise max_connections, lower VIDGEN_DATABASE_POOL_SIZE, or put a pooler in front",
        )
    return ok(
        POSTGRESQL,
        f"version {facts.version}; {facts.connections} of {facts.max_connections} connections"
        " are taken",
    )


async def schema(settings: Settings) -> Finding:
    """Whether the tables are those of this release."""
    async with connect(settings.database_url, timeout_s=TIMEOUT_S) as connection:
        found = await migrate.standing(connection)
    if found.altered:
        return problem(
            SCHEMA,
            f"{', '.join(found.altered)} was applied with another content than this release has",
            "is this another installation's database, or a release that was changed by hand?",
        )
    if found.missing:
        return problem(SCHEMA, f"lacks {', '.join(found.missing)}", "run: vidgen migrate")
    if found.newer:
        return ok(
            SCHEMA, f"newer than this release, which is all right; steps ahead: {found.newer}"
        )
    return ok(SCHEMA, f"up to date: {found.newest}")


async def redis(settings: Settings) -> Finding:
    """Whether Redis lets us in, is new enough, and is one that can be written to."""
    try:
        facts = await _redis_facts(settings)
    except DispatchError as error:
        return _unreachable(error)
    name, version = _redis_version(facts)
    told = f"{name} {version}"
    # Valkey began with 7.2 and says so to those who ask for Redis.
    if _numbers(str(facts.get("redis_version", version))) < MIN_REDIS:
        wanted = ".".join(map(str, MIN_REDIS))
        return problem(REDIS, f"{told}: it must be {wanted} or newer", "upgrade it, or take Valkey")
    if facts.get("redis_mode") == "cluster":
        return problem(
            REDIS,
            f"{told} in cluster mode, which arq does not speak",
            "take a single primary, with Sentinel if it must fail over (redis+sentinel://)",
        )
    if facts.get("role") == "slave":
        return problem(
            REDIS, f"{told}, a replica: it takes no writes", "point REDIS_URL at the primary"
        )
    return ok(REDIS, told)


async def eviction(settings: Settings) -> Finding:
    """Whether Redis keeps what it was given."""
    facts = await _redis_facts(settings)
    policy, limit = facts.get("maxmemory_policy"), int(facts.get("maxmemory") or 0)
    used = int(facts.get("used_memory") or 0)
    mend = f"set maxmemory-policy {NO_EVICTION}: in its file, or by CONFIG SET"
    if policy is None:
        return warning(
            EVICTION,
            "the server does not tell its eviction policy",
            f"make sure that it is {NO_EVICTION}, in the console of whoever runs it",
        )
    if policy != NO_EVICTION and limit:
        return problem(
            EVICTION,
            f"at {_mib(limit)} it throws keys away ({policy}): dispatches get lost, and their jobs"
            " start late",
            mend,
        )
    if policy != NO_EVICTION:
        return warning(EVICTION, f"{policy}: once it gets a limit it will throw keys away", mend)
    if limit and used > FULL * limit:
        return warning(
            EVICTION,
            f"{_mib(used)} of {_mib(limit)} are used: when it is full, new jobs start late",
            "raise maxmemory, or see who else uses it; vidgen needs a few MiB",
        )
    return ok(EVICTION, f"{policy}; {_mib(used)} used of {_mib(limit) if limit else 'no limit'}")


async def workers(settings: Settings) -> Finding:
    """Whether somebody works, and is allowed to."""
    async with connect(settings.database_url, timeout_s=TIMEOUT_S) as connection:
        alive = await processes.alive(connection, settings.lease_ttl_s)
        pauses = await steering.pauses(connection)
        oldest_s = await jobs.oldest_due_s(connection)
    told = f"{alive} alive" if alive else "no worker is alive"
    if alive == 0:
        return warning(WORKERS, f"{told}: jobs wait", "start one: vidgen worker")
    if pauses:
        names = ", ".join(pause.provider or "all providers" for pause in pauses)
        return warning(
            WORKERS, f"{told}; paused: {names}", "go on: vidgen resume, with the provider's name"
        )
    if oldest_s > WAITS_LONG_S:
        return warning(
            WORKERS,
            f"{told}; the oldest job has waited for {oldest_s / 60:.0f} min",
            "start more workers, or raise VIDGEN_CONCURRENCY or VIDGEN_RATE_LIMIT_PER_MIN",
        )
    return ok(WORKERS, told)


async def money(settings: Settings) -> Finding:
    """Whether what counts against the budgets is what the ledger says."""
    async with connect(settings.database_url, timeout_s=TIMEOUT_S) as connection:
        wrong = await budgets.discrepancies(connection)
        known = await budgets.listed(connection)
    if wrong:
        told = ", ".join(
            f"{each.scope} by {each.period}: {_dollars(each.counted_micros)} counted,"
            f" {_dollars(each.ledger_micros)} in the ledger"
            for each in wrong[:5]
        )
        return problem(
            BUDGETS,
            told,
            "remove these budgets and set them again: they are counted anew from the ledger",
        )
    near = sum(each.near for each in known)
    if near:
        return warning(
            BUDGETS,
            f"{near} of which 80 % or more are used",
            "see which: vidgen budgets list; more: vidgen budgets set",
        )
    return ok(
        BUDGETS, f"{len(known)} set" if known else "none is set: nothing limits what is spent"
    )


def _dollars(micros: int) -> str:
    return f"${micros / 1_000_000:,.2f}"


async def _redis_facts(settings: Settings) -> dict[str, Any]:
    async with open_redis(settings.redis_url) as client, redis_errors("look at Redis"):
        facts: dict[str, Any] = await client.info()
        return facts


def _unreachable(error: DispatchError) -> Finding:
    cause: RedisError | BaseException | None = error.__cause__
    if isinstance(cause, AuthenticationError):
        return problem(
            REDIS, "it refuses user or password", "correct user and password in REDIS_URL"
        )
    if isinstance(cause, NoPermissionError):
        return problem(
            REDIS,
            "the user may not ask INFO",
            "give it the rights +@read +@write +@connection +info +@scripting on all keys",
        )
    return problem(
        REDIS,
        error.message,
        "is it running, and does REDIS_URL lead to it from here (rediss:// where it wants TLS)?",
    )


def _redis_version(facts: dict[str, Any]) -> tuple[str, str]:
    if "valkey_version" in facts:
        return "Valkey", str(facts["valkey_version"])
    return "Redis", str(facts.get("redis_version", "of an unknown version"))


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"
