"""What a server says about itself, for whoever asks whether it will do."""

from dataclasses import dataclass
from datetime import datetime

from vidgen.store.pool import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """
    One PostgreSQL.

    Attributes:
        version_number: As 140005 for 14.5.
        read_only: It takes no writes: a standby, or set so.
        connections: How many there are now, ours included.
    """

    version: str
    version_number: int
    read_only: bool
    max_connections: int
    connections: int


async def server_facts(connection: Connection) -> ServerFacts:
    """Which server this is, and whether it takes writes."""
    row = await connection.fetchrow(
        """
        SELECT current_setting('server_version') AS version,
               current_setting('server_version_num')::integer AS version_number,
               pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean
                   AS read_only,
               current_setting('max_connections')::integer AS max_connections,
               (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend')
                   AS connections
        """
    )
    assert row is not None  # it reads no table
    return ServerFacts(**row)


async def clock(connection: Connection) -> datetime:
    """What time it is there, at this very moment."""
    at: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return at
