"""A gateway holds a paid call for longer than anybody expects: it is still one video."""

from dataclasses import replace

import pytest

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, a_rule, quick
from vidgen import JobStatus
from vidgen.settings import Settings
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]

HELD_S = 3  # then it is accepted, answered with 504, and listed a second later


@pytest.fixture
def settings(settings: Settings) -> Settings:
    changes = {"lease_ttl_s": 1, "settle_s": 1.5, "submit_timeout_s": 5}
    return settings.model_copy(update=changes)


async def test_a_submit_that_is_held_for_longer_than_a_lease_is_not_made_again(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    await carrier.finish(await carrier.enqueue(replace(SORA, prompt="shows that the list lists")))
    simulator.sora.script(a_rule("list hidden 1s"))
    held = f"[[sim:late {HELD_S}s]] [[sim:accept-then-504]]"

    job = await carrier.finish(await carrier.enqueue(replace(SORA, prompt=f"a tram {held}")))

    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 1)
    assert len(simulator.sora.bill) == 2
