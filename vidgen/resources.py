"""Everything a worker or server holds open, opened in order and closed in reverse."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from loguru import logger
from redis.asyncio import Redis

from vidgen import catalog
from vidgen.blob import BlobBucket, BlobStorage
from vidgen.breaker import Breakers
from vidgen.catalog import Endpoints
from vidgen.dispatch import Dispatcher, open_redis
from vidgen.gate import Gate, SharedGate
from vidgen.providers.registry import Providers, ProvidersConfig, build
from vidgen.ratelimit import MARGIN_S, WINDOW_S, RateLimit
from vidgen.settings import Settings
from vidgen.storage import Bucket, Storage
from vidgen.store.pool import Database
from vidgen.tracing import Tracing, exporting
from vidgen.vault import Vault

# What the parts of all transfers of a process hold together; one alone may always fill its own.
MEMORY_BYTES = 160 * 1024 * 1024
COMPLAIN_EVERY_S = 3600.0
# Paid calls of a process at once: each has a connection of its own, of which there are a few more
# (`providers.http`), and whoever waited for one there would be told after ten seconds to try again.
SUBMITS = 240
# A verdict begins a transfer. With thousands at once the first are stored before the last is
# written, and those who wait hold little.
VERDICTS = 8

ResultStorage: TypeAlias = Storage | BlobStorage


@dataclass(slots=True)
class Clock:
    """The time of the database, carried on by our own clock between two heartbeats."""

    ahead: timedelta = field(default_factory=timedelta)

    def now(self) -> datetime:
        """About what `now()` in PostgreSQL would say."""
        return datetime.now(UTC) + self.ahead

    def set(self, database_now: datetime) -> None:
        """Learn how far the database is ahead of us."""
        self.ahead = database_now - datetime.now(UTC)


class Complaints:
    """
    What was complained about lately. What cannot be mended here is found again by every look; it
    is logged once in an interval.
    """

    def __init__(self) -> None:
        """Nothing yet."""
        self._until: dict[str, float] = {}

    def is_new(self, what: str) -> bool:
        """Note *what*; whether somebody has to be told."""
        now = asyncio.get_running_loop().time()
        self._until = {known: until for known, until in self._until.items() if until > now}
        is_new = what not in self._until
        self._until.setdefault(what, now + COMPLAIN_EVERY_S)
        return is_new


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """
    What the stages work with.

    Attributes:
        transfers: Bounds the transfers of this process, the most urgent first.
        submits: Bounds its paid calls, shared by the interfaces that they go to.
        verdicts: Bounds how many videos it finds ready at once.
        breakers: Which providers are left alone for a while.
        tracing: Where spans go, if anywhere.
        vault: Opens the keys that users brought.
        complaints: What the log of this process has told already.
        jitter: Draws a number from 0 to 1.
    """

    settings: Settings
    database: Database
    redis: Redis
    dispatcher: Dispatcher
    rate_limit: RateLimit
    storage: ResultStorage
    providers: Providers
    transfers: Gate
    breakers: Breakers
    submits: SharedGate = field(default_factory=lambda: SharedGate(SUBMITS))
    verdicts: Gate = field(default_factory=lambda: Gate(VERDICTS))
    tracing: Tracing = field(default_factory=Tracing)
    vault: Vault = field(default_factory=Vault)
    clock: Clock = field(default_factory=Clock)
    complaints: Complaints = field(default_factory=Complaints)
    jitter: Callable[[], float] = field(default_factory=lambda: random.Random().random)  # noqa: S311  spreads load, keeps no secret


@asynccontextmanager
async def open_resources(settings: Settings) -> AsyncIterator[Resources]:
    """
    Open connections to everything the environment names.

    Raises:
        DatabaseError: PostgreSQL cannot be reached; Redis and S3 are reached when they are needed.
    """
    async with AsyncExitStack() as stack:
        tracing = await stack.enter_async_context(exporting(settings))
        database = await stack.enter_async_context(
            Database(
                settings.database_url,
                size=settings.database_pool_size,
                prepared_statements=settings.prepared_statements,
            )
        )
        redis = await stack.enter_async_context(open_redis(settings.redis_url))
        storage = await stack.enter_async_context(open_storage(settings))
        for sentence in catalog.broken_plugins():
            logger.warning("a plug-in is left out", error=sentence)
        providers = build(providers_config(settings))
        stack.push_async_callback(providers.aclose)
        yield Resources(
            settings=settings,
            database=database,
            redis=redis,
            dispatcher=Dispatcher(redis, settings.queue_name),
            rate_limit=RateLimit(
                redis,
                limit_per_min=settings.rate_limit_per_min,
                window_s=WINDOW_S + MARGIN_S,
            ),
            storage=storage,
            providers=providers,
            transfers=Gate(settings.transfer_concurrency),
            tracing=tracing,
            vault=Vault(settings.encryption_key_bytes),
            breakers=Breakers(redis),
        )


def open_storage(settings: Settings) -> AbstractAsyncContextManager[ResultStorage]:
    """
    What keeps the results: a bucket that is named, else a Blob store whose token is there.

    Raises:
        SettingsError: On entering, if the settings cannot work.
    """
    if settings.uses_blob:
        return BlobStorage.open(blob_bucket_of(settings))
    return Storage.open(bucket_of(settings))


def blob_bucket_of(settings: Settings) -> BlobBucket:
    """The Blob store that the settings name."""
    token = settings.blob_read_write_token
    parts = settings.parts_in_flight + 1
    return BlobBucket(
        token=token.get_secret_value() if token else "",
        access=settings.blob_access,
        api_url=settings.blob_api_url,
        object_url=settings.blob_object_url,
        part_size_bytes=settings.part_size_bytes,
        parts_in_flight=settings.parts_in_flight,
        memory_bytes=max(MEMORY_BYTES, settings.part_size_bytes * parts),
        max_connections=settings.transfer_concurrency * parts + 4,
    )


def bucket_of(settings: Settings) -> Bucket:
    """The S3 bucket that the settings name."""
    secret, token = settings.aws_secret_access_key, settings.aws_session_token
    parts = settings.parts_in_flight + 1
    return Bucket(
        name=settings.s3_bucket,
        endpoint_url=settings.s3_endpoint_url,
        public_url=settings.s3_public_url,
        access_key_id=settings.aws_access_key_id or None,
        secret_access_key=secret.get_secret_value() if secret else None,
        session_token=token.get_secret_value() if token else None,
        region=settings.aws_region,
        addressing_style=settings.s3_addressing_style,
        part_size_bytes=settings.part_size_bytes,
        parts_in_flight=settings.parts_in_flight,
        memory_bytes=max(MEMORY_BYTES, settings.part_size_bytes * parts),
        max_connections=settings.transfer_concurrency * parts + 4,
    )


def providers_config(settings: Settings) -> ProvidersConfig:
    """What the settings say of providers."""
    return ProvidersConfig(
        endpoints=Endpoints(settings.variable),
        allow_private_addresses=settings.allow_private_addresses,
        submit_timeout_s=settings.submit_timeout_s,
    )
