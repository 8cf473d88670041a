"""
Sealing keys anew while they are used: `python -m tests.bench.rotate --keys 10000 --jobs 600`.

Every user has a key under the old encryption key. Two workers make their videos, and more are asked
for while all keys are sealed anew. The simulator knows which key came along with each call.
"""

import argparse
import asyncio
import base64
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from tests.bench.world import Crew, World, open_world
from vidgen import JobStatus, VideoJob, VideoQueue, VideoRequest, keys
from vidgen.store import keys as store
from vidgen.store.pool import Database
from vidgen.vault import Vault

OLD, NEW = (bytes([number]) * 32 for number in (1, 2))
WORKERS = 2
GENERATION_S = (1.0, 6.0)
TIMEOUT_S = 600.0
WAVE = 20  # jobs that are asked for at once, as long as the rotation runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=600)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vidgen-rotate-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        figures = asyncio.run(_measure(folder, arguments.keys, arguments.jobs))
    table = Table("what", "figure", title="rotate")
    for what, figure in figures.items():
        table.add_row(what, str(figure))
    Console(stderr=True).print(table)
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


async def _measure(folder: Path, count: int, jobs: int) -> dict[str, Any]:
    ring = ",".join(base64.b64encode(key).decode() for key in (NEW, OLD))
    async with open_world(folder, encryption_keys=SecretStr(ring), concurrency=200) as world:
        dice = random.Random(count)
        world.simulator.sora.generation_s = lambda: dice.uniform(*GENERATION_S)
        loop = asyncio.get_running_loop()
        async with (
            Database(world.settings.database_url, size=4) as database,
            VideoQueue(world.settings) as queue,
            Crew(world.settings, world.logs, WORKERS) as crew,
        ):
            for number in range(count):
                await _bring(database, Vault([OLD]), number)
            for place in range(WORKERS):
                await crew.ready(place)
            asked = [await _ask(queue, dice.randrange(count)) for _ in range(jobs // 3)]
            async with asyncio.timeout(TIMEOUT_S):
                await world.simulator.sora.arrived("poll", 10)
            begun = loop.time()
            steps = 0
            step = await keys.reseal(database, Vault([NEW, OLD]))
            resealed = step.resealed
            while step.next is not None:
                steps += 1
                if len(asked) < jobs:
                    asked += [await _ask(queue, dice.randrange(count)) for _ in range(WAVE)]
                step = await keys.reseal(database, Vault([NEW, OLD]), step.next)
                resealed += step.resealed
            elapsed_s = loop.time() - begun
            async with asyncio.timeout(TIMEOUT_S):
                done = [await queue.wait(job.id) for job in asked]
            async with database.connection() as connection:
                sealed = await store.sealed_under(connection)
                parked = await connection.fetchval(
                    "SELECT count(*) FROM job_events WHERE type IN ('parked', 'failed')"
                )
        return {
            "keys": count,
            "resealed": resealed,
            "seconds": round(elapsed_s, 2),
            "left_under_the_old_key": count
            - sum(each.keys for each in sealed if each.key_id == Vault([NEW]).newest),
            "jobs": len(done),
            "completed": sum(job.status is JobStatus.COMPLETED for job in done),
            "parked_or_failed": parked,
            "submits": len(world.simulator.sora.bill),
            "with_a_foreign_key": _foreign(world, done),
        }


async def _bring(database: Database, vault: Vault, number: int) -> None:
    async with database.connection() as connection:
        given = keys.check("sora", _key(number))
        await keys.add(connection, vault, f"user-{number}", given)


async def _ask(queue: VideoQueue, number: int) -> VideoJob:
    request = VideoRequest(provider="sora", prompt=f"tram {number}", seconds=4)
    return await queue.enqueue(request, user_id=f"user-{number}")


def _key(number: int) -> str:
    return f"sk-of-user-{number}"


def _foreign(world: World, done: list[VideoJob]) -> int:
    """Calls about a video with a key that is not its user's."""
    owners = {job.operation.id: job.user_id for job in done if job.operation}
    wrong = 0
    for request in world.simulator.sora.received:
        if isinstance(request.body, dict):
            user = f"user-{str(request.body['prompt']).removeprefix('tram ')}"
        else:
            found = (owner for name, owner in owners.items() if name in request.path)
            user = next(found, None) or ""
        wrong += request.headers["authorization"] != f"Bearer sk-of-{user}"
    return wrong


if __name__ == "__main__":
    main()
