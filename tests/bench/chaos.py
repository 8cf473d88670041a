"""
Faults of every kind at random, and a score: `python -m tests.bench.chaos --jobs 500 --seed 1`.

Real workers in processes of their own run real jobs, while a plan drawn from the seed kills,
freezes and replaces them, stops and empties their servers, makes bucket and providers fail, and
cuts, mutes and delays the connections to all of them. The same seed draws the same plan. In the end
the providers' bills, the rows, their events and the bucket are held against each other.

Half of the jobs have other providers behind the first one, and all are under budgets.
"""

import argparse
import asyncio
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import orjson
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Table

from tests.bench.scorecard import Scorecard, judged
from tests.bench.world import PROVIDERS, WAYS, Crew, World, open_world
from vidgen import Fallback, VideoRequest
from vidgen.job import REROUTES
from vidgen.queue import VideoQueue
from vidgen.resources import Clock
from vidgen.simulator.control import Rule
from vidgen.simulator.faults import Deed
from vidgen.simulator.s3.server import Fault
from vidgen.store import budgets
from vidgen.store.budgets import Period
from vidgen.store.pool import Database

# Nothing here holds a request back for longer: the longest mute, and this process standing still
# while a server starts. What the provider does not list then was never sent.
SETTLE_S = 6.0
LONGEST_MUTE_S = 3.0
END_TIMEOUT_S = 240.0
SHOWN_DEFECTS = 20

# Who makes what jobs with fall-backs ask for: four seconds of 720p.
TARGETS = {
    "sora": "sora-2",
    "veo": "veo-3.1-lite-generate-preview",
    "omni": "gemini-omni-1.2-flash",
    "fal": "fal-ai/veo3.1/fast",
    "kling": "kling-v3",
    "runway": "gen4.5",
    "xai": "grok-imagine-video",
}
ROUTED = "with others behind it"
# The first one is more than enough; the others run out, so that jobs have to pass by.
BUDGETS_MICROS: dict[tuple[str, Period], int] = {
    ("all", "total"): 10**10,
    ("each-user", "total"): 10**10,
    ("provider:fal", "total"): 2_000_000,
    ("provider:kling", "total"): 1_200_000,
}
# Nobody begins where the money runs out: the whole batch would be refused.
FIRST = sorted(set(TARGETS) - {"fal", "kling"})
USERS = ("ada", "ben", None)


# --- the plan -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One fault: when it begins, how long it lasts, and the seed of its details."""

    at_s: float
    deed: str
    lasts_s: float
    seed: int


def plan(seed: int, duration_s: float, every_s: float) -> list[Step]:
    """Faults for *duration_s* seconds, every kind about equally often."""
    dice = random.Random(seed)
    steps: list[Step] = []
    bag: list[str] = []
    at_s = dice.uniform(1, 3)
    while at_s < duration_s:
        bag = bag or dice.sample(sorted(DEEDS), len(DEEDS))
        steps.append(
            Step(
                at_s=at_s,
                deed=bag.pop(),
                lasts_s=dice.uniform(0.3, LONGEST_MUTE_S),
                seed=dice.randrange(2**32),
            )
        )
        at_s += dice.uniform(0.2, 1.8) * every_s
    return steps


async def _kill(_: World, crew: Crew, step: Step, dice: random.Random) -> None:
    place = dice.randrange(len(crew.locks))
    async with crew.locks[place]:
        await crew.strike(place, signal.SIGKILL)
        await crew.end(place)
        await asyncio.sleep(step.lasts_s)
        await crew.start(place)


async def _freeze(_: World, crew: Crew, step: Step, dice: random.Random) -> None:
    place = dice.randrange(len(crew.locks))
    async with crew.locks[place]:
        await crew.strike(place, signal.SIGSTOP)
        await asyncio.sleep(step.lasts_s * 3)  # up to twice a lease
        await crew.strike(place, signal.SIGCONT)


async def _replace(_: World, crew: Crew, __: Step, dice: random.Random) -> None:
    place = dice.randrange(len(crew.locks))
    async with crew.locks[place]:
        await crew.strike(place, signal.SIGTERM)
        await crew.end(place)
        await crew.start(place)


async def _flush(world: World, _: Crew, __: Step, ___: random.Random) -> None:
    async with world.server_locks["redis"], Redis.from_url(world.settings.redis_url) as redis:
        await redis.flushall()


async def _restart_redis(world: World, _: Crew, step: Step, dice: random.Random) -> None:
    async with world.server_locks["redis"]:
        world.redis.stop()
        if dice.random() < 0.5:
            shutil.rmtree(world.redis.folder)
        await asyncio.sleep(step.lasts_s)
        world.redis.start()


async def _freeze_redis(world: World, _: Crew, step: Step, __: random.Random) -> None:
    async with world.server_locks["redis"]:
        pid = int((world.redis.folder / "valkey.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(step.lasts_s)
        finally:
            os.kill(pid, signal.SIGCONT)


async def _restart_postgres(world: World, _: Crew, step: Step, dice: random.Random) -> None:
    async with world.server_locks["database"]:
        world.postgres.stop()
        await asyncio.sleep(step.lasts_s * dice.choice([1, 2]))
        world.postgres.start()


async def _spoil_bucket(world: World, _: Crew, step: Step, dice: random.Random) -> None:
    actions: list[Literal["answer", "close", "delay", "lose"]] = [
        "answer",
        "close",
        "lose",
        "delay",
    ]
    for action in actions:
        operations = ["PutObject", "UploadPart", "CompleteMultipartUpload", None]
        world.s3.faults.append(
            Fault(
                action=action,
                operation=dice.choice(operations),
                times=dice.randint(1, 4),
                delay_s=step.lasts_s,
                after_bytes=dice.randrange(100_000),
            )
        )


async def _spoil_provider(world: World, _: Crew, __: Step, dice: random.Random) -> None:
    for name in (dice.choice(["sora", "veo"]), *dice.sample(sorted(PROVIDERS), 2)):
        provider = world.simulator.simulators[name]
        for deed, outcome, argument in dice.sample(TROUBLES, 4):
            times = 1 if outcome == "failed" else dice.randint(1, 3)
            provider.script(Rule(deed=deed, outcome=outcome, argument=argument, times=times))


async def _cut_way(world: World, _: Crew, __: Step, dice: random.Random) -> None:
    proxy = world.proxies[dice.choice(sorted(WAYS))]
    match dice.choice(["drop", "reset", "truncate"]):
        case "drop":
            proxy.drop()
        case "reset":
            proxy.reset()
        case _:
            proxy.truncate(dice.randrange(2000))


async def _close_way(world: World, _: Crew, step: Step, dice: random.Random) -> None:
    way = dice.choice(sorted(WAYS))
    proxy = world.proxies[way]
    async with world.server_locks[way]:
        match dice.choice(["mute", "refuse", "delay"]):
            case "mute":
                proxy.mute()
            case "refuse":
                await proxy.cut()
            case _:
                proxy.delay_s = 0.2
        await asyncio.sleep(step.lasts_s)
        await proxy.restore()


Trouble = Callable[[World, Crew, Step, random.Random], Awaitable[None]]
DEEDS: dict[str, Trouble] = {
    "kill": _kill,
    "freeze": _freeze,
    "replace": _replace,
    "flush redis": _flush,
    "restart redis": _restart_redis,
    "freeze redis": _freeze_redis,
    "restart postgres": _restart_postgres,
    "spoil bucket": _spoil_bucket,
    "spoil provider": _spoil_provider,
    "cut a way": _cut_way,
    "close a way": _close_way,
}
TROUBLES: list[tuple[Deed, str, str | None]] = [
    ("submit", "503", None),
    ("submit", "429-retry-after", "1"),
    ("submit", "disconnect", None),
    ("submit", "accept-then-disconnect", None),
    ("submit", "accept-then-504", None),
    ("submit", "accept-then-500", None),
    ("submit", "late", "1s"),
    ("poll", "503", None),
    ("poll", "500", None),
    ("poll", "disconnect", None),
    ("poll", "failed", None),
    ("content", "503", None),
    ("content", "truncated", None),
    ("content", "disconnect", None),
    ("list", "503", None),
    ("list", "hidden", "2s"),
]
# Each of them is the end of a job that has nobody else.
REASONS_TO_MOVE: list[tuple[Deed, str, str | None]] = [
    ("submit", "429-retry-after", "90"),
    ("submit", "410", None),
    ("submit", "401", None),
    ("submit", "429-insufficient_quota", None),
    ("submit", "400-moderation", None),
    ("poll", "failed", None),
    ("poll", "moderation", None),
    ("poll", "filtered", None),
]
# They take the money for a success that has no video to it.
PAID_FOR_NOTHING = ("fal", "kling", "xai")


# --- the run --------------------------------------------------------------------------------------


async def run(
    world: World, *, jobs: int, seed: int, duration_s: float, every_s: float, workers: int
) -> Scorecard:
    """The score of *jobs* videos through *duration_s* seconds of the plan of *seed*."""
    dice = random.Random(seed)
    for name in PROVIDERS:
        world.simulator.simulators[name].generation_s = lambda: dice.uniform(2, 12)
    _give_reasons(world, jobs, dice)
    await _limit(world)
    async with Crew(world.exposed, world.logs, workers) as crew:
        await _enqueue(world, jobs, duration_s, dice)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(crew.watch())
            async with asyncio.TaskGroup() as faults:
                for step in plan(seed, duration_s, every_s):
                    faults.create_task(_do(world, crew, step))
            for proxy in world.proxies.values():
                await proxy.restore()
            await _all_final(world)
            watching.cancel()
    return await judged(
        world.settings, world.simulator, world.s3, world.logs, crew.blows, crew.ended_alone
    )


async def _enqueue(world: World, jobs: int, duration_s: float, dice: random.Random) -> None:
    """Ask for everything at once; a tenth of it becomes due every now and then."""
    requests = [_request(number, dice) for number in range(jobs)]
    async with VideoQueue(world.settings) as queue:
        for part in range(10):
            run_at = Clock().now() + timedelta(seconds=duration_s * 0.08 * part)
            if batch := requests[part::10]:
                user_id = USERS[part % len(USERS)]
                await queue.enqueue_many(batch, run_at=run_at, user_id=user_id)


def _give_reasons(world: World, jobs: int, dice: random.Random) -> None:
    """Let every provider refuse and fail some of the jobs that have others behind it."""
    for name in sorted(PROVIDERS):
        charged: list[tuple[Deed, str, str | None]] = [("poll", "no-samples", None)]
        for deed, outcome, argument in REASONS_TO_MOVE + charged * (name in PAID_FOR_NOTHING):
            nth = dice.randint(1, 1 + jobs // 20)
            rule = Rule(deed=deed, outcome=outcome, argument=argument, nth=nth, prompt=ROUTED)
            world.simulator.simulators[name].script(rule)


async def _limit(world: World) -> None:
    database = Database(world.settings.database_url, size=1)
    async with database, database.connection() as connection:
        for (scope, period), micros in BUDGETS_MICROS.items():
            await budgets.put(connection, scope, period, micros, "chaos")


def _request(number: int, dice: random.Random) -> VideoRequest:
    in_parts = " [[sim:size 12M]] [[sim:slow 4M]]" if dice.random() < 0.1 else ""
    if number % 2:
        return _routed(f"tram {number} {ROUTED}{in_parts}", dice)
    provider = "sora" if dice.random() < 0.6 else "veo"
    return VideoRequest(provider=provider, prompt=f"tram {number}{in_parts}")


def _routed(prompt: str, dice: random.Random) -> VideoRequest:
    """A wish of one provider, with one to three others behind it, and something they may cost."""
    first = dice.choice(FIRST)
    behind = dice.sample(sorted(set(TARGETS) - {first}), dice.randint(1, 3))
    return VideoRequest(
        provider=first,
        model=TARGETS[first],
        prompt=prompt,
        seconds=4,
        size="1280x720",
        fallbacks=[Fallback(provider=name, model=TARGETS[name]) for name in behind],
        reroute_on=None if dice.random() < 0.3 else REROUTES,
        max_cost_micros=dice.choice([700_000, 1_500_000, 3_000_000]),
    )


async def _do(world: World, crew: Crew, step: Step) -> None:
    await asyncio.sleep(step.at_s)
    await DEEDS[step.deed](world, crew, step, random.Random(step.seed))


async def _all_final(world: World) -> None:
    """Return once every job is final, or when that takes too long: then they count as lost."""
    with suppress(TimeoutError):
        async with asyncio.timeout(END_TIMEOUT_S), VideoQueue(world.settings) as queue:
            while True:
                counts = await queue.stats()
                if not counts.waiting + counts.active + counts.delayed:
                    return
                await asyncio.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a new folder for data and logs")
    arguments = parser.parse_args()
    # The simulators complain of each connection that we cut.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="vidgen-chaos-") as passing:
        folder: Path = arguments.keep or Path(passing)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        card = asyncio.run(_bench(folder, arguments))
    figures = {"seed": arguments.seed, "minutes": arguments.minutes} | card.figures()
    table = Table("what", "figure", title="chaos")
    for name, figure in figures.items():
        table.add_row(name, str(figure))
    Console(stderr=True).print(table)
    for line in card.defects[:SHOWN_DEFECTS]:
        sys.stderr.write(line + "\n")
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


async def _bench(folder: Path, arguments: argparse.Namespace) -> Scorecard:
    async with open_world(folder, settle_s=SETTLE_S) as world:
        return await run(
            world,
            jobs=arguments.jobs,
            seed=arguments.seed,
            duration_s=arguments.minutes * 60,
            every_s=4,
            workers=arguments.workers,
        )


if __name__ == "__main__":
    main()
