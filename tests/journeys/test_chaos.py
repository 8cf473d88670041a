"""
Faults of every kind at random, a minute of them: the bench of `tests.bench.chaos` as a test.

The bench itself takes any number of jobs, minutes and seeds.
"""

from pathlib import Path

import pytest

from tests.bench.chaos import END_TIMEOUT_S, SETTLE_S, run
from tests.bench.world import open_world

JOBS = 60
DURATION_S = 45.0
EVERY_S = 2.0  # each kind of fault once or twice
WORKERS = 3


@pytest.mark.timeout(DURATION_S + END_TIMEOUT_S + 120)  # servers start and stop, too
@pytest.mark.parametrize("seed", [1], ids=lambda seed: f"seed {seed}")
async def test_chaos_loses_nothing_and_pays_nothing_twice(server_folder: Path, seed: int) -> None:
    folder = server_folder / f"chaos-{seed}"
    folder.mkdir()
    async with open_world(folder, settle_s=SETTLE_S) as world:
        card = await run(
            world,
            jobs=JOBS,
            seed=seed,
            duration_s=DURATION_S,
            every_s=EVERY_S,
            workers=WORKERS,
        )

    assert (card.lost, card.paid_twice, card.silent) == (0, 0, 0), card.figures()
    assert (card.defects, card.ended_alone) == ((), 0), card.figures()
    assert card.completed + sum(card.failed.values()) == card.jobs == JOBS
    assert card.unknown == card.failed.get("submit_unknown", 0)
    assert card.moved, card.figures()
    assert (card.books_off_micros, card.budgets_off) == (0, 0), card.figures()
