"""`python -m vidgen.simulator.s3 FOLDER` serves a folder until it is interrupted."""

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from vidgen.simulator.s3.server import S3Server


async def _serve(wanted: argparse.Namespace) -> None:
    server = S3Server(
        wanted.folder,
        access_key=wanted.access_key,
        secret_key=wanted.secret_key,
        region=wanted.region,
    )
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    await server.start(wanted.host, wanted.port)
    try:
        sys.stdout.write(f"S3 at {server.url}\n")
        sys.stdout.flush()
        await stopping.wait()
    finally:
        await server.stop()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(prog="python -m vidgen.simulator.s3", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--access-key", default="vidgen")
    parser.add_argument("--secret-key", default="vidgen-secret")
    parser.add_argument("--region", default="us-east-1")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
