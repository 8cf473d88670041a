"""
Foreign bytes for as long as you like: `python -m tests.bench.fuzz --minutes 10`.

Each reader of `tests.foreign` gets an equal share of the time. Where atheris is installed
(`pip install atheris`; not in the lock files) `--engine atheris` lets it steer by what code each
input reaches, from the corpus on, one reader per run (`--only`); else Hypothesis draws, with a new
seed each time. What breaks a reader is written to `tests/corpus/READER/`, and a test from then on.
"""

import argparse
import asyncio
import hashlib
import importlib
import inspect
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.foreign import CORPUS, TARGETS, Target

EXAMPLES_AT_ONCE = 500
SEEDS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--only", choices=sorted(TARGETS), action="append")
    parser.add_argument("--engine", choices=["hypothesis", "atheris"], default="hypothesis")
    parser.add_argument("--seed", type=int, default=1)
    given_ = parser.parse_args()
    chosen = [TARGETS[name] for name in given_.only or TARGETS]
    share_s = given_.minutes * 60 / len(chosen)
    if given_.engine == "atheris":
        _steered(chosen, share_s)
    found = {target.name: _drawn(target, share_s, given_.seed) for target in chosen}
    sys.stdout.write(orjson.dumps(found).decode() + "\n")
    sys.exit(any(figures["broken"] for figures in found.values()))


def _drawn(target: Target, seconds: float, first_seed: int) -> dict[str, Any]:
    """How many inputs Hypothesis drew, and which of them broke *target*."""
    until = time.monotonic() + seconds
    tried, broken = 0, list[str]()
    with asyncio.Runner() as runner:
        runner.run(target.tried(b""))

        def takes(data: bytes) -> None:
            nonlocal tried
            tried += 1
            runner.run(target.measured(data))

        round_ = 0
        while time.monotonic() < until and not broken:
            round_ += 1
            try:
                _round(target, takes, first_seed * 1_000_003 + round_)
            except Exception as error:  # noqa: BLE001  whatever it is, it is what we look for
                broken.append(_kept(target, error))
    sys.stderr.write(f"{target.name}: {tried} inputs, {broken or 'none of them'} broke it\n")
    return {"inputs": tried, "broken": broken}


def _round(target: Target, takes: Any, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=EXAMPLES_AT_ONCE,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(target.data)
    def one(data: bytes) -> None:
        try:
            takes(data)
        except BaseException as error:
            error.__dict__["input"] = data  # the last one is the smallest that was found
            raise

    one()


def _kept(target: Target, error: Exception) -> str:
    data: bytes = getattr(error, "input", b"")
    folder = CORPUS / target.name
    folder.mkdir(exist_ok=True)
    path = folder / f"{type(error).__name__}-{hashlib.sha256(data).hexdigest()[:8]}.bin"
    path.write_bytes(data)
    return path.name


def _steered(chosen: list[Target], seconds: float) -> None:
    """Give the process to atheris; it ends it."""
    if len(chosen) != 1:
        sys.exit("--engine atheris takes one reader: name it by --only")
    try:
        atheris: Any = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.exit("atheris is not installed (pip install atheris); without it Hypothesis draws")
    [target] = chosen
    folder = CORPUS / target.name
    folder.mkdir(exist_ok=True)
    runner = asyncio.Runner()
    runner.run(target.tried(b""))
    _instrument(atheris)
    limits = ["-timeout=20", "-rss_limit_mb=2048", "-max_len=4096"]
    flags = [f"-max_total_time={round(seconds)}", f"-artifact_prefix={folder}/", *limits]
    with tempfile.TemporaryDirectory(prefix="vidgen-fuzz-") as begun:  # new inputs go to the first
        _seed(target, Path(begun))
        atheris.Setup(
            [sys.argv[0], *flags, begun, str(folder)], lambda data: runner.run(target.tried(data))
        )
        atheris.Fuzz()


def _seed(target: Target, folder: Path) -> None:
    """Begin with what Hypothesis would try, which knows how the bytes are built."""

    @settings(max_examples=SEEDS, database=None, deadline=None, phases=[Phase.generate])
    @given(target.data)
    def one(data: bytes) -> None:
        (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)

    one()


def _instrument(atheris: Any) -> None:
    """Let atheris see which lines of vidgen an input reaches; those of libraries would be many."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "vidgen":
            for owner in (module, *filter(inspect.isclass, vars(module).values())):
                for found in list(vars(owner).values()):
                    if inspect.isfunction(found) and found.__module__ == name:
                        atheris.instrument_func(found)


if __name__ == "__main__":
    main()
