"""What commands open to reach the queue, and the record they leave of what people do."""

import os
import pwd
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vidgen.job import JsonValue

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from vidgen.queue import VideoQueue
    from vidgen.settings import Settings
    from vidgen.store.pool import Database

ROLE = "operate"  # whoever has the settings may do everything
ADDRESS = "cli"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """What most commands open."""

    settings: "Settings"
    database: "Database"
    redis: "Redis"
    queue: "VideoQueue"

    async def note(self, action: str, target: object = "", **detail: JsonValue) -> str:
        """
        Write down what is about to be done, as the HTTP API does, and return who does it.

        Raises:
            DatabaseError: PostgreSQL is away; then nothing may be done either.
        """
        await self.write(action, target, **detail)
        return user()

    async def write(self, action: str, target: object = "", **detail: JsonValue) -> int:
        """As `note`; the number of the entry, for `aim`."""
        from vidgen.store import steering

        async with self.database.connection() as connection:
            return await steering.note(
                connection,
                who=user(),
                role=ROLE,
                address=ADDRESS,
                action=action,
                target=str(target),
                detail={name: value for name, value in detail.items() if value is not None},
            )

    async def aim(self, number: int, target: object) -> None:
        """Say what it was done to; what is done stays so if PostgreSQL is away by now."""
        from vidgen.errors import DatabaseError
        from vidgen.store import steering

        with suppress(DatabaseError):
            async with self.database.connection() as connection:
                await steering.aim(connection, number, str(target))


@asynccontextmanager
async def open_door() -> AsyncIterator[Door]:
    """
    Connect to what the environment names; Redis is reached when it is needed.

    Raises:
        SettingsError: The message lists every problem.
        DatabaseError: PostgreSQL cannot be reached.
    """
    from vidgen.dispatch import open_redis
    from vidgen.queue import VideoQueue
    from vidgen.settings import Settings
    from vidgen.store.pool import Database

    settings = Settings.load()
    async with (
        Database(
            settings.database_url,
            size=settings.database_pool_size,
            prepared_statements=settings.prepared_statements,
        ) as database,
        open_redis(settings.redis_url) as redis,
    ):
        queue = VideoQueue.sharing(settings, database, redis)
        yield Door(settings=settings, database=database, redis=redis, queue=queue)


def signed(who: str) -> str:
    """*who* as the events of a job name them."""
    return f"{ADDRESS}:{who}"


def user() -> str:
    """Who runs this program, by the system's own books: variables can be set by anybody."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # containers run under numbers that have no name
        return f"uid {os.getuid()}"
