"""
What a simulator process leaves behind for the next one: accepted generations and the bill.

A real provider does not forget a paid video when its own process restarts, so the state file is
written with each acceptance: one JSON line each, appended.
"""

from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import orjson

from vidgen.simulator.control import Charge, Generation, ProviderSimulator, Wish


class StateFile:
    """Appends what happens to attached simulators; lines of former processes are read back."""

    def __init__(self, path: Path) -> None:
        """Open *path*, which need not exist yet."""
        whole = _whole_lines(path)
        self._lines = [orjson.loads(line) for line in whole]
        self._file: IO[bytes] = path.open("ab")
        self._file.truncate(sum(map(len, whole)))  # or the next line would join a broken one

    def attach(self, simulator: ProviderSimulator) -> None:
        """Give *simulator* what it had, and follow it from now on."""
        for line in self._lines:
            if line["simulator"] == simulator.name:
                _replay(line, simulator)

        def changed(generation: Generation | None, what: str) -> None:
            self._append(simulator.name, generation, what)

        simulator.on_change = changed

    def close(self) -> None:
        """Close the file; every line is in it already."""
        self._file.close()

    def _append(self, name: str, generation: Generation | None, what: str) -> None:
        line: dict[str, Any] = {"simulator": name, "what": what}
        if generation is not None:
            line |= {"id": generation.id}
        if generation is not None and what == "accepted":
            line |= {
                "wish": asdict(generation.wish),
                "created_at": generation.created_at,
                "ready_at": generation.ready_at,
                "listed_at": generation.listed_at,
            }
        self._file.write(orjson.dumps(line) + b"\n")
        self._file.flush()  # a kill must not lose what was billed


def _whole_lines(path: Path) -> list[bytes]:
    """Every line but one that a kill cut short."""
    if not path.exists():
        return []
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def _replay(line: dict[str, Any], simulator: ProviderSimulator) -> None:
    what: str = line["what"]
    match what:
        case "reset":
            simulator.generations.clear()
            simulator.bill.clear()
        case "deleted":
            simulator.generations.pop(str(line["id"]), None)
        case "accepted":
            wish = Wish(**line["wish"])
            simulator.generations[wish.operation_id] = Generation(
                wish=wish,
                created_at=line["created_at"],
                ready_at=line["ready_at"],
                listed_at=line["listed_at"],
            )
            simulator.bill.append(
                Charge(
                    operation_id=wish.operation_id,
                    prompt=wish.prompt,
                    model=wish.model,
                    seconds=wish.seconds,
                    cost_micros=wish.cost_micros,
                    at=0.0,  # another loop's time means nothing to this one
                    parameters=wish.parameters,
                )
            )
        case _:
            raise ValueError(f"the state file has a line of an unknown kind: {what}")
