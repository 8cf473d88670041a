"""
The simulators as a process of their own: `python -m vidgen.simulator --port 8787`.

Prints one JSON line with every address once it listens; SIGINT and SIGTERM end it.
"""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

import orjson

from vidgen.simulator.server import SimulatorServer
from vidgen.simulator.sora_request import DIALECTS


def main() -> None:
    """Read the arguments and serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m vidgen.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: the system chooses")
    parser.add_argument(
        "--origin", default="", help="http://host:port by which others reach it, e.g. by a name"
    )
    parser.add_argument(
        "--generation-s", type=float, default=8.0, help="time until a video is ready"
    )
    parser.add_argument("--dialect", choices=sorted(DIALECTS), default="openai")
    parser.add_argument("--state-file", type=Path, help="what was accepted outlives this process")
    arguments = parser.parse_args()
    asyncio.run(
        _serve(
            SimulatorServer(
                host=arguments.host,
                port=arguments.port,
                generation_s=arguments.generation_s,
                dialect=arguments.dialect,
                state_file=arguments.state_file,
                origin=arguments.origin,
            )
        )
    )


async def _serve(server: SimulatorServer) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with server:
        sys.stdout.buffer.write(orjson.dumps(server.urls()) + b"\n")
        sys.stdout.flush()
        await stopped.wait()


if __name__ == "__main__":
    main()
