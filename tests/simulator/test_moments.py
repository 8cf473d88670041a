"""An answer of a simulator is of one moment, whatever the clock does while it is made."""

import asyncio
from itertools import count

import pytest

from vidgen.simulator import Rule, SimulatorServer
from vidgen.simulator.control import Wish

WISH = Wish(
    operation_id="video_1",
    prompt="a kite",
    model="any",
    seconds=4,
    width=1280,
    height=720,
    audio=False,
    cost_micros=1,
)


async def test_what_has_no_fate_yet_is_not_called_finished_a_line_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with SimulatorServer(generation_s=1.5, only={"seedance"}) as server:
        simulator = server.simulators["seedance"]
        simulator.script(Rule(deed="poll", outcome="moderation"))
        seconds = count()
        monkeypatch.setattr("vidgen.simulator.control.unix_now", lambda: float(next(seconds)))
        generation = simulator.accept(WISH, at=0.0)

        before = simulator.settle(generation), generation.is_due(), generation.is_due()
        await asyncio.sleep(0)
        after = simulator.settle(generation), generation.is_due()

        assert before == (None, False, False)
        assert after[0] is not None
        assert after[0].name == "moderation"
        assert after[1]
