"""
How long a start takes: `python -m tests.bench.start`.

The import of vidgen in a bare Python, alone and with the queue, each the best of several; and a
worker from its start to `worker ready`, with its servers there and its schema migrated.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from tests.bench.world import Crew, open_world

STATEMENTS = ("import vidgen", "from vidgen import VideoQueue, VideoRequest")
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    figures = {f"{each} (ms)": _import_ms(each, rounds) for each in STATEMENTS}
    with tempfile.TemporaryDirectory(prefix="vidgen-start-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as somebody else
        figures["worker ready (s)"] = asyncio.run(_ready_s(folder, rounds))
    table = Table("what", "best", title="start")
    for what, figure in figures.items():
        table.add_row(what, str(figure))
    Console(stderr=True, width=100).print(table)
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")


def _import_ms(statement: str, rounds: int) -> float:
    """What *statement* adds to the start of a Python, as Python itself clocks it."""
    code = f"from time import perf_counter; at = perf_counter(); {statement}; "
    code += "print((perf_counter() - at) * 1000)"
    command = [sys.executable, "-c", code]
    return round(min(float(subprocess.check_output(command)) for _ in range(rounds)), 1)


async def _ready_s(folder: Path, rounds: int) -> float:
    loop = asyncio.get_running_loop()
    seconds = []
    async with open_world(folder) as world:
        for _ in range(rounds):
            started = loop.time()
            async with Crew(world.settings, world.logs, 1) as crew:
                await crew.ready(0)
                seconds.append(loop.time() - started)
    return round(min(seconds), 2)


if __name__ == "__main__":
    main()
