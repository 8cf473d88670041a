"""Jobs that failed for good keep what a retry needs, and say beforehand what it costs."""

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, a_rule, quick
from vidgen import JobStatus
from vidgen.job import Stage
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]


async def test_a_retry_by_filter_tells_beforehand_what_is_paid_again(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll moderation", times=1))
    blocked = await carrier.finish(await carrier.enqueue(SORA))
    simulator.sora.script(a_rule("poll never", times=1))
    late = await carrier.finish(await carrier.queue.enqueue(SORA, deadline_s=1))

    plans = {plan.job_id: plan for plan in await carrier.queue.retry_failed(dry_run=True)}

    assert plans.keys() == {blocked.id, late.id}
    assert plans[blocked.id].pays_again
    assert plans[blocked.id].cost_micros == blocked.estimated_cost_micros
    assert not plans[late.id].pays_again
    assert (plans[late.id].stage, plans[late.id].cost_micros) == (Stage.GENERATING, 0)
    assert (await carrier.queue.get(late.id)).status is JobStatus.FAILED  # a dry run does nothing


async def test_a_retry_by_filter_lets_only_those_go_on_that_fit(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll moderation", times=1), a_rule("submit 400", nth=2))
    blocked = await carrier.finish(await carrier.enqueue(SORA))
    rejected = await carrier.finish(await carrier.enqueue(SORA))
    assert (blocked.error_code, rejected.error_code) == ("content_blocked", "input_rejected")

    [plan] = await carrier.queue.retry_failed(code="input_rejected")

    done = await carrier.finish(await carrier.queue.get(plan.job_id))
    assert (done.id, done.status) == (rejected.id, JobStatus.COMPLETED)
    assert (await carrier.queue.get(blocked.id)).status is JobStatus.FAILED


async def test_a_retry_anew_buys_another_video_on_purpose(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll never", times=1))
    failed = await carrier.finish(await carrier.queue.enqueue(SORA, deadline_s=1))
    assert failed.error_code == "generation_timeout"

    done = await carrier.finish(await carrier.queue.retry(failed.id, anew=True))

    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 2, 2)
