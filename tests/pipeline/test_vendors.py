"""Vendors whose results lie at addresses that end, and of whom some can list: whole lives."""

import pytest
from pydantic import SecretStr

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import a_rule, quick
from vidgen import JobStatus, catalog
from vidgen.job import VideoRequest
from vidgen.settings import Settings
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]

LISTING = ("replicate", "luma")


def wish(provider: str) -> VideoRequest:
    return VideoRequest(provider=provider, prompt="a red kite over a grey sea")


@pytest.fixture
def settings(settings: Settings, simulator: SimulatorServer) -> Settings:
    """With every simulated vendor, and a key for each."""
    addresses = simulator.addresses()
    update: dict[str, object] = {"settle_s": 0.2}
    for variable, address in addresses.items():
        update |= dict.fromkeys(Settings.of_variables({variable}), address)
    keys = Settings.of_variables(catalog.key_variables(addresses))
    return settings.model_copy(update=update | dict.fromkeys(keys, SecretStr("sk-test")))


@pytest.mark.parametrize("provider", ["runway", *LISTING])
async def test_an_address_that_has_ended_costs_a_look_and_no_second_video(
    carrier: Carrier, simulator: SimulatorServer, provider: str
) -> None:
    vendor = simulator.simulators[provider]
    vendor.script(a_rule("content 403", times=1))

    job = await carrier.finish(await carrier.enqueue(wish(provider)))

    assert (job.status, job.attempt, len(vendor.bill)) == (JobStatus.COMPLETED, 1, 1)
    assert job.actual_cost_micros == vendor.bill[0].cost_micros


@pytest.mark.parametrize("provider", LISTING)
async def test_a_lost_receipt_is_found_in_the_list(
    carrier: Carrier, simulator: SimulatorServer, provider: str
) -> None:
    vendor = simulator.simulators[provider]
    vendor.script(a_rule("submit accept-then-disconnect", times=1))

    job = await carrier.finish(await carrier.enqueue(wish(provider)))

    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 1)
    assert [charge.operation_id for charge in vendor.bill] == [
        job.operation.id if job.operation else None
    ]


async def test_a_receipt_that_runway_lost_is_left_to_a_person(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    vendor = simulator.simulators["runway"]
    vendor.script(a_rule("submit accept-then-disconnect", times=1))

    job = await carrier.finish(await carrier.enqueue(wish("runway")))

    assert (job.status, job.error_code) == (JobStatus.FAILED, "submit_unknown")
    assert len(vendor.bill) == 1


@pytest.mark.parametrize(
    ("verdict", "code", "attempts"),
    [("failed", "completed", 2), ("moderation", "content_blocked", 1)],
)
async def test_a_failure_is_tried_anew_and_blocked_content_never(
    carrier: Carrier, simulator: SimulatorServer, verdict: str, code: str, attempts: int
) -> None:
    vendor = simulator.simulators["runway"]
    vendor.script(a_rule(f"poll {verdict}", times=1))

    job = await carrier.finish(await carrier.enqueue(wish("runway")))

    assert (job.error_code or job.status, job.attempt) == (code, attempts)
    assert len(vendor.bill) == attempts
