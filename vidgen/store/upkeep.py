"""
Whose turn it is to do a periodic duty: decided in PostgreSQL, so that doubled ticks change
nothing.

An advisory lock elects one of those who ask at once, and the row says for how long nobody else is
elected. The lock lasts for the statement only, so that it works through transaction poolers.
"""

from vidgen.store.pool import Connection


async def take_turn(connection: Connection, duty: str, every_s: float) -> bool:
    """True for one caller in *every_s* seconds over all processes."""
    turn = await connection.fetchval(
        """
        INSERT INTO upkeep (duty, ran_at)
        SELECT $1, now() WHERE pg_try_advisory_xact_lock(hashtext('vidgen:upkeep'), hashtext($1))
        ON CONFLICT (duty) DO UPDATE SET ran_at = now()
            WHERE upkeep.ran_at <= now() - make_interval(secs => $2)
        RETURNING true
        """,
        duty,
        every_s,
    )
    return bool(turn)
