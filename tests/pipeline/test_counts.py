"""What a worker counts while it carries jobs, and that the money in it is right."""

import asyncio
from collections.abc import Callable

import pytest

from tests.builders import a_worker
from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, VEO, a_rule, quick
from vidgen import JobStatus, lifecycle, metrics
from vidgen.simulator.server import SimulatorServer
from vidgen.store import jobs, workers

__all__ = ["quick"]

Growth = Callable[..., float]


@pytest.fixture
def growth() -> Growth:
    """By how much a series has grown in this test."""

    def read() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in metrics.REGISTRY.collect()
            for sample in family.samples
        }

    before = read()

    def grown(name: str, **labels: str) -> float:
        key = (name, frozenset(labels.items()))
        return round(read().get(key, 0) - before.get(key, 0), 6)

    return grown


async def test_a_video_is_counted_once_in_every_metric_of_its_way(
    carrier: Carrier, growth: Growth
) -> None:
    job = await carrier.finish(await carrier.enqueue(SORA))

    assert job.status is JobStatus.COMPLETED
    sora = {"provider": "sora"}
    model = {**sora, "model": "sora-2"}
    assert growth("vidgen_submits_total", **model, outcome="accepted") == 1
    assert growth("vidgen_polls_total", **sora, outcome="succeeded") == 1
    assert growth("vidgen_generation_seconds_count", **model) == 1
    for stage in ("queued", "submitting", "generating", "transferring"):
        assert growth("vidgen_stage_seconds_count", **sora, stage=stage) == 1
    for event in ("claimed", "submitting", "submitted", "generated", "completed"):
        assert growth("vidgen_transitions_total", **sora, type=event) == 1
    assert growth("vidgen_transfer_bytes_total", **sora) == job.size_bytes
    assert growth("vidgen_transfer_seconds_count") == 1
    assert growth("vidgen_attempts_sum", status="completed") == 1
    assert job.estimated_cost_micros is not None
    assert growth("vidgen_spend_dollars_total", **model) == job.estimated_cost_micros / 1e6


async def test_every_look_is_counted_by_what_it_saw(
    carrier: Carrier, simulator: SimulatorServer, growth: Growth
) -> None:
    simulator.sora.script(a_rule("poll 503", times=2))
    simulator.sora.generation_s = 0.5

    await carrier.finish(await carrier.enqueue(SORA))

    assert growth("vidgen_polls_total", provider="sora", outcome="error") == 2
    assert growth("vidgen_polls_total", provider="sora", outcome="running") >= 1
    assert growth("vidgen_polls_total", provider="sora", outcome="succeeded") == 1


async def test_a_refusal_costs_nothing_and_is_counted_as_one(
    carrier: Carrier, simulator: SimulatorServer, growth: Growth
) -> None:
    simulator.sora.script(a_rule("submit 400"))

    await carrier.finish(await carrier.enqueue(SORA))

    model = {"provider": "sora", "model": "sora-2"}
    assert growth("vidgen_submits_total", **model, outcome="refused") == 1
    assert growth("vidgen_spend_dollars_total", **model) == 0
    reason = {"provider": "sora", "reason": "input_rejected"}
    assert growth("vidgen_waste_dollars_total", **reason) == 0
    error = {"provider": "sora", "stage": "submitting", "code": "input_rejected"}
    assert growth("vidgen_errors_total", **error) == 1


async def test_a_submit_that_nobody_can_settle_is_unknown_and_may_be_lost_money(
    carrier: Carrier, simulator: SimulatorServer, growth: Growth
) -> None:
    simulator.veo.script(a_rule("submit accept-then-disconnect"))

    job = await carrier.finish(await carrier.enqueue(VEO))

    assert job.error_code == "submit_unknown"
    assert job.estimated_cost_micros
    submits = {"provider": "veo", "model": job.model, "outcome": "unknown"}
    assert growth("vidgen_submits_total", **submits) == 1
    reason = {"provider": "veo", "reason": "submit_unknown"}
    assert growth("vidgen_waste_dollars_total", **reason) == job.estimated_cost_micros / 1e6


async def test_a_finished_video_that_expired_is_wasted_money(
    carrier: Carrier, simulator: SimulatorServer, growth: Growth
) -> None:
    simulator.sora.script(a_rule("content 410"))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert job.status is JobStatus.FAILED
    assert job.error_code is not None
    assert job.estimated_cost_micros
    dollars = job.estimated_cost_micros / 1e6
    assert growth("vidgen_spend_dollars_total", provider="sora", model="sora-2") == dollars
    reason = {"provider": "sora", "reason": job.error_code}
    assert growth("vidgen_waste_dollars_total", **reason) == dollars


async def test_the_job_of_a_lost_worker_is_a_recovery(carrier: Carrier, growth: Growth) -> None:
    job = await carrier.enqueue(SORA)
    dead = a_worker()
    async with carrier.resources.database.connection() as connection:
        await workers.heartbeat(connection, dead)
        await jobs.apply(connection, job.id, lifecycle.claimed(), worker_id=dead.id)
        await connection.execute(
            "UPDATE workers SET heartbeat_at = now() - interval '1 hour' WHERE id = $1", dead.id
        )

    await carrier.sweep()

    assert growth("vidgen_recoveries_total", reason="worker_lost") == 1


async def test_a_lost_lease_is_counted(
    carrier: Carrier, simulator: SimulatorServer, growth: Growth
) -> None:
    simulator.sora.generation_s = 5
    job = await carrier.enqueue(SORA)

    async with asyncio.TaskGroup() as group:
        group.create_task(carrier.carry(job))
        async with asyncio.timeout(10):
            await simulator.sora.arrived("poll")
        async with carrier.resources.database.connection() as connection:
            await connection.execute("UPDATE video_jobs SET lease_epoch = lease_epoch + 1")
        carrier.leases.hand_over(urgent=True)

    assert growth("vidgen_lease_losses_total") == 1


async def test_a_submit_that_waits_for_its_turn_is_counted(
    carrier: Carrier, growth: Growth
) -> None:
    object.__setattr__(carrier.resources.rate_limit, "_limit_per_min", 1)
    await carrier.finish(await carrier.enqueue(SORA))
    assert growth("vidgen_rate_limit_waits_total", provider="sora") == 0

    second = await carrier.carry(await carrier.enqueue(SORA))

    assert second.status is JobStatus.PENDING
    assert growth("vidgen_rate_limit_waits_total", provider="sora") == 1
