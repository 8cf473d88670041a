"""
The world around vidgen in one child process: an S3 server and the simulated providers.

    python -m vidgen.dev.outside FOLDER [--generation-s 8]

FOLDER holds `keys.json` and keeps objects, accepted generations and ports for the next run. Prints
one JSON line with every address once it listens; ends with the process that started it.
"""

import argparse
import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import orjson

from vidgen.job import JsonValue
from vidgen.simulator import SimulatorServer, service_account_file
from vidgen.simulator.s3 import S3Server

LOOPBACK = "127.0.0.1"
LOOK_FOR_PARENT_EVERY_S = 1.0


def main() -> None:
    """Read the arguments and serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m vidgen.dev.outside", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--generation-s", type=float, default=8.0)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.folder, arguments.generation_s))


async def _serve(folder: Path, generation_s: float) -> None:
    parent = os.getppid()
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    keys = orjson.loads((folder / "keys.json").read_bytes())
    # Operations of unfinished jobs name the port they live at, so it stays over a restart.
    ports = _ports(folder / "ports.json")
    s3 = S3Server(folder / "s3", access_key=keys["s3_access_key"], secret_key=keys["s3_secret_key"])
    await s3.start(LOOPBACK, _if_free(ports["s3"]))
    try:
        async with SimulatorServer(
            port=_if_free(ports["providers"]),
            generation_s=generation_s,
            state_file=folder / "accepted.jsonl",
        ) as providers:
            account = service_account_file(folder, providers.veo.token_url)
            told = providers.urls() | {"s3_url": s3.url, "service_account": str(account)}
            _keep_ports(folder / "ports.json", told)
            sys.stdout.buffer.write(orjson.dumps(told) + b"\n")
            sys.stdout.flush()
            await _until_told_or_alone(stopping, parent)
    finally:
        await s3.stop()


async def _until_told_or_alone(stopping: asyncio.Event, parent: int) -> None:
    """Wait for a signal; where the system does not send one at the parent's end, notice it."""
    while os.getppid() == parent and not stopping.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_FOR_PARENT_EVERY_S):
                await stopping.wait()


def _ports(path: Path) -> dict[str, int]:
    try:
        found = orjson.loads(path.read_bytes())
        return {"s3": int(found["s3"]), "providers": int(found["providers"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"s3": 0, "providers": 0}


def _keep_ports(path: Path, told: dict[str, JsonValue]) -> None:
    def port(url: JsonValue) -> int:
        return int(str(url).rpartition(":")[2].partition("/")[0])

    ports = {"s3": port(told["s3_url"]), "providers": port(told["origin"])}
    path.write_bytes(orjson.dumps(ports))


def _if_free(port: int) -> int:
    """*port*, or 0 (the system chooses) if somebody else has it by now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return 0
    return port


if __name__ == "__main__":
    main()
