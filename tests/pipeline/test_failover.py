"""
A job moves on to another provider, and never pays two for one delivered video: the simulators'
bills are the judge.
"""

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest

from tests.by_hand import Hand
from tests.ledger import assert_kept
from tests.pipeline.conftest import Carrier, carrying
from tests.pipeline.test_failures import a_rule, quick
from vidgen import Fallback, JobStatus, VideoJob, VideoRequest, lifecycle
from vidgen.breaker import FAILURES_TO_OPEN
from vidgen.catalog.sora import ORIGIN
from vidgen.catalog.veo import GEMINI_ORIGIN
from vidgen.job import EventType, JobEvent, Operation, Stage
from vidgen.lifecycle import Prospect
from vidgen.pipeline import receipts
from vidgen.providers.protocol import Submission
from vidgen.resources import open_resources
from vidgen.settings import Settings
from vidgen.simulator.control import Charge, ProviderSimulator
from vidgen.simulator.server import SimulatorServer
from vidgen.store import budgets, history, ledger
from vidgen.store.rows import request_of

__all__ = ["quick"]

PAID = {"charged", "wasted"}

LITE = "veo-3.1-lite-generate-preview"
SORA = VideoRequest(
    provider="sora",
    prompt="a tram in the rain",
    seconds=4,
    size="1280x720",
    fallbacks=[Fallback(provider="veo", model=LITE)],
)
VEO = VideoRequest(
    provider="veo",
    model=LITE,
    prompt="a tram in the rain",
    seconds=4,
    fallbacks=[Fallback(provider="sora")],
    max_cost_micros=1_000_000,
)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"settle_s": 0.2})


def delivered(provider: ProviderSimulator) -> list[Charge]:
    """What is billed: a generation that the provider itself calls failed is not."""
    return [
        charge for charge in provider.bill if provider.generations[charge.operation_id].fate is None
    ]


def bills(simulator: SimulatorServer) -> tuple[int, int]:
    return len(delivered(simulator.sora)), len(delivered(simulator.veo))


async def moves(carrier: Carrier, job: VideoJob) -> list[JobEvent]:
    happened = await carrier.queue.history(job.id)
    return [event for event in happened if event.type is EventType.REROUTED]


# What is done to the first provider, and what comes out: which is named by the reason to move on,
# or by the code of the failure; and how many each of the two bills.
MATRIX = [
    (SORA, "submit 503", "refused", (0, 1)),
    (SORA, "submit 503-overloaded", "refused", (0, 1)),
    (SORA, "submit 503-connection-failure", "refused", (0, 1)),
    (SORA, "submit 429-retry-after 90", "refused", (0, 1)),
    (SORA, "submit 404-model", "retired", (0, 1)),
    (SORA, "submit 410", "retired", (0, 1)),
    (SORA, "submit 429-insufficient_quota", "quota", (0, 1)),
    (SORA, "submit 401", "auth", (0, 1)),
    (SORA, "submit 400-moderation", "content_blocked", (0, 0)),
    (SORA, "submit 400", "input_rejected", (0, 0)),
    (SORA, "submit accept-then-disconnect", None, (1, 0)),
    (SORA, "submit accept-then-502", None, (1, 0)),
    (SORA, "submit accept-then-504", None, (1, 0)),
    (SORA, "submit accept-then-500", None, (1, 0)),
    (SORA, "submit accept-then-503-connection-termination", None, (1, 0)),
    (SORA, "poll failed", "failed", (0, 1)),
    (SORA, "poll cancelled", "generation_failed", (0, 0)),  # nobody knows what that cost
    (VEO, "submit 503", "refused", (1, 0)),
    (VEO, "submit 404-model", "retired", (1, 0)),
    (VEO, "submit 429-per-day", "quota", (1, 0)),
    (VEO, "submit 502", "submit_unknown", (0, 0)),
    (VEO, "submit accept-then-disconnect", "submit_unknown", (0, 1)),
    (VEO, "submit accept-then-502", "submit_unknown", (0, 1)),
    (VEO, "submit accept-then-500", "submit_unknown", (0, 1)),
    (VEO, "submit accept-then-503-connection-termination", "submit_unknown", (0, 1)),
    (VEO, "submit missing-id", "submit_unknown", (0, 1)),
    (VEO, "poll filtered", "content_blocked", (0, 0)),
]


@pytest.mark.parametrize(
    ("request_", "rule", "outcome", "billed"),
    MATRIX,
    ids=[f"{request.provider} {rule}" for request, rule, *_ in MATRIX],
)
async def test_only_a_proof_moves_a_job_on_and_one_video_is_billed_once(
    carrier: Carrier,
    simulator: SimulatorServer,
    request_: VideoRequest,
    rule: str,
    outcome: str | None,
    billed: tuple[int, int],
) -> None:
    first, second = request_.provider, request_.fallbacks[0].provider
    simulator.simulators[first].script(a_rule(rule))

    job = await carrier.finish(await carrier.enqueue(request_))

    moved = await moves(carrier, job)
    if sum(billed) and outcome != "submit_unknown":
        assert job.status is JobStatus.COMPLETED, job.error_message
        assert job.provider == (second if outcome else first)
        assert [event.detail["reason"] for event in moved] == ([outcome] if outcome else [])
    else:
        assert (job.status, job.error_code, job.provider) == (JobStatus.FAILED, outcome, first)
        assert not moved
    assert bills(simulator) == billed


async def test_a_hiccup_is_waited_for_at_the_first_provider(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit 503", times=lifecycle.REFUSALS_TO_MOVE - 1))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.provider, bills(simulator)) == (JobStatus.COMPLETED, "sora", (1, 0))


async def test_a_request_that_provably_never_arrived_is_made_at_the_next_one(
    settings: Settings, simulator: SimulatorServer
) -> None:
    hurried = settings.model_copy(update={"submit_timeout_s": 1})
    async with open_resources(hurried) as resources, carrying(resources) as carrier:
        shows = replace(SORA, prompt="shows that the list lists")
        await carrier.finish(await carrier.enqueue(shows))
        simulator.sora.script(a_rule("submit disconnect", times=1))

        job = await carrier.finish(await carrier.enqueue(SORA))

        assert [event.detail["reason"] for event in await moves(carrier, job)] == ["absent"]
    assert (job.status, job.provider, bills(simulator)) == (JobStatus.COMPLETED, "veo", (1, 1))
    assert (job.attempt, job.max_attempts) == (2, 4)


@pytest.mark.parametrize(
    ("rule", "reason"), [("submit 400-moderation", "policy"), ("submit 400", "rejected")]
)
async def test_what_a_request_allows_moves_it_on(
    carrier: Carrier, simulator: SimulatorServer, rule: str, reason: str
) -> None:
    simulator.sora.script(a_rule(rule))

    job = await carrier.finish(await carrier.enqueue(replace(SORA, reroute_on=[reason])))

    assert (job.status, job.provider, bills(simulator)) == (JobStatus.COMPLETED, "veo", (0, 1))


async def test_what_a_request_leaves_out_does_not(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit 404-model"))

    job = await carrier.finish(await carrier.enqueue(replace(SORA, reroute_on=["quota"])))

    assert (job.status, job.error_code, bills(simulator)) == (
        JobStatus.FAILED,
        "model_retired",
        (0, 0),
    )


async def test_the_timeline_tells_from_whom_to_whom_why_and_for_how_much(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit 410"))

    job = await carrier.finish(await carrier.enqueue(replace(SORA, seed=None)))

    [moved] = await moves(carrier, job)
    assert moved.detail["code"] == "model_retired"
    assert (moved.detail["from"], moved.detail["to"]) == (
        {"target": 0, "provider": "sora", "model": "sora-2"},
        {"target": 1, "provider": "veo", "model": LITE},
    )
    assert (moved.detail["cost_micros"], moved.detail["skipped"]) == (None, [])
    assert (job.target, job.provider, job.model, job.attempt) == (1, "veo", LITE, 1)
    assert (job.parameters["aspect_ratio"], job.parameters["size"]) == ("16:9", None)
    assert (job.targets[0].provider, job.target_parameters[0]["size"]) == ("sora", "1280x720")
    assert (job.estimated_cost_micros, job.actual_cost_micros) == (200_000, 200_000)


async def test_a_provider_that_is_left_alone_is_passed_over_before_anything_is_sent(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    account = carrier.resources.providers.account("sora", "sora-2")
    for _ in range(FAILURES_TO_OPEN):
        await carrier.resources.breakers.failed("sora", account)

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.provider, bills(simulator)) == (JobStatus.COMPLETED, "veo", (0, 1))
    assert [event.detail["reason"] for event in await moves(carrier, job)] == ["down"]
    assert not simulator.sora.received


async def test_a_job_whose_providers_are_all_left_alone_waits_where_it_is(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    providers, breakers = carrier.resources.providers, carrier.resources.breakers
    for _ in range(FAILURES_TO_OPEN):
        await breakers.failed("sora", providers.account("sora", "sora-2"))
        await breakers.failed("veo", providers.account("veo", LITE))

    job = await carrier.carry(await carrier.enqueue(SORA))

    assert (job.status, job.stage, job.provider) == (JobStatus.PENDING, Stage.QUEUED, "sora")
    assert not simulator.sora.received


async def test_a_refusal_that_may_pass_is_waited_for_if_nobody_else_has_a_key(
    settings: Settings, simulator: SimulatorServer
) -> None:
    at_google = {"gemini_api_key": None, "gemini_base_url": f"{GEMINI_ORIGIN}/v1beta"}
    changed = settings.model_copy(update=at_google)
    async with open_resources(changed) as resources, carrying(resources) as carrier:
        vertex = Fallback(provider="veo", model="veo-3.1-lite-generate-001")
        simulator.sora.script(a_rule("submit 503", times=FAILURES_TO_OPEN - 1))

        job = await carrier.finish(await carrier.enqueue(replace(SORA, fallbacks=[vertex])))

    assert (job.status, job.provider, bills(simulator)) == (JobStatus.COMPLETED, "sora", (1, 0))


async def test_a_provider_without_a_key_is_passed_over(
    settings: Settings, simulator: SimulatorServer
) -> None:
    async with open_resources(settings) as resources, carrying(resources) as carrier:
        vertex = replace(VEO, model="veo-3.1-lite-generate-001")

        job = await carrier.finish(await carrier.enqueue(vertex))

        assert [event.detail["reason"] for event in await moves(carrier, job)] == ["unconfigured"]
    assert (job.status, job.provider, bills(simulator)) == (JobStatus.COMPLETED, "sora", (1, 0))


async def test_a_model_that_is_switched_off_meanwhile_is_passed_over(
    settings: Settings, simulator: SimulatorServer
) -> None:
    at_openai = settings.model_copy(update={"openai_base_url": f"{ORIGIN}/v1"})
    async with open_resources(at_openai) as resources, carrying(resources) as carrier:
        job = await carrier.finish(await carrier.enqueue(SORA))

        assert [event.detail["reason"] for event in await moves(carrier, job)] == ["retired"]
    assert (job.status, job.provider, bills(simulator)) == (JobStatus.COMPLETED, "veo", (0, 1))
    assert datetime.now(UTC).date() >= date(2026, 9, 24)


async def test_a_target_over_the_ceiling_is_passed_over_and_the_timeline_says_so(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    dear = Fallback(provider="veo", model="veo-3.1-generate-preview")  # 4 s for $1.60
    cheap = Fallback(provider="veo", model=LITE)
    wish = replace(SORA, fallbacks=[dear, cheap], max_cost_micros=500_000)
    simulator.sora.script(a_rule("submit 410"))

    job = await carrier.finish(await carrier.enqueue(wish))

    [moved] = await moves(carrier, job)
    assert moved.detail["skipped"] == [
        {"target": 1, "provider": "veo", "model": dear.model, "reason": "ceiling"}
    ]
    assert (job.status, job.model, job.target) == (JobStatus.COMPLETED, LITE, 2)
    assert bills(simulator) == (0, 1)


async def test_a_first_target_over_the_ceiling_is_passed_over_before_anything_is_sent(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    job = await carrier.finish(await carrier.enqueue(replace(SORA, max_cost_micros=300_000)))

    assert [event.detail["reason"] for event in await moves(carrier, job)] == ["ceiling"]
    assert (job.status, job.provider, bills(simulator)) == (JobStatus.COMPLETED, "veo", (0, 1))
    assert not simulator.sora.received


async def test_a_job_that_nobody_is_left_for_fails_with_the_last_reason(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit 410"))
    simulator.veo.script(a_rule("submit 429-per-day"))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.error_code, job.attempt) == (JobStatus.FAILED, "quota_exhausted", 0)
    assert (job.actual_cost_micros, bills(simulator)) == (0, (0, 0))


async def test_a_retry_by_hand_begins_with_the_first_one_again(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit 410", times=1))
    simulator.veo.script(a_rule("submit 429-per-day"))
    job = await carrier.finish(await carrier.enqueue(SORA))

    job = await carrier.finish(await carrier.queue.retry(job.id))

    assert (job.status, job.provider, job.target) == (JobStatus.COMPLETED, "sora", 0)
    assert job.parameters["size"] == "1280x720"
    assert bills(simulator) == (1, 0)


# --- money ---


async def limit(carrier: Carrier, scope: str, micros: int) -> None:
    async with carrier.resources.database.connection() as connection:
        await budgets.put(connection, scope, "day", micros, "test")


async def test_the_books_follow_a_job_to_where_it_goes(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    await limit(carrier, "all", 400_000)  # for one of them, not for both
    simulator.sora.script(a_rule("submit 410"))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.provider) == (JobStatus.COMPLETED, "veo")
    async with carrier.resources.database.connection() as connection:
        await assert_kept(connection, job)
        entries = [
            (entry.kind, entry.provider, entry.micros)
            for entry in await ledger.of_job(connection, job.id)
        ]
    assert entries == [
        ("reserved", "sora", 400_000),
        ("released", "sora", 400_000),
        ("reserved", "veo", 200_000),
        ("charged", "veo", 200_000),
    ]


async def test_a_target_that_no_budget_bears_is_passed_over(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    await limit(carrier, "provider:veo", 100_000)
    simulator.sora.script(a_rule("submit 410"))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.error_code, bills(simulator)) == (
        JobStatus.FAILED,
        "model_retired",
        (0, 0),
    )
    [*_, failed] = await carrier.queue.history(job.id)
    assert failed.detail["skipped"] == [
        {"target": 1, "provider": "veo", "model": LITE, "reason": "budget"}
    ]
    async with carrier.resources.database.connection() as connection:
        await assert_kept(connection, job)


async def left_for_absence(
    carrier: Carrier,
) -> tuple[VideoJob, Operation]:
    """
    A job that has moved on since its request was not in the list; and the receipt of that request,
    which comes now.
    """
    hand = Hand(carrier.queue)
    job = await hand.claim(await carrier.enqueue(SORA))
    job = await hand.write(job, lifecycle.submitting(job))
    change = lifecycle.disproved(
        job, prospects=(Prospect(target=1),), now=carrier.resources.clock.now()
    )
    provider = carrier.resources.providers.get("sora")
    submission = Submission(job_id=job.id, attempt=1, request=request_of(job))
    credential = carrier.resources.providers.credential("sora", job.model)
    receipt = await provider.submit(submission, credential)
    return await hand.write(job, change), receipt.operation


async def test_a_receipt_that_comes_after_all_brings_its_job_back_while_nothing_else_was_sent(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    job, operation = await left_for_absence(carrier)
    assert (job.provider, job.stage, job.attempt, job.max_attempts) == ("veo", Stage.QUEUED, 1, 4)

    fate = await receipts.settle_late(carrier.resources, carrier.leases, job.id, 1, operation)

    assert fate is receipts.Fate.RETURNED
    job = await carrier.finish(await carrier.queue.get(job.id))
    assert (job.status, job.provider, job.target, job.max_attempts) == (
        JobStatus.COMPLETED,
        "sora",
        0,
        3,
    )
    assert bills(simulator) == (1, 0)
    async with carrier.resources.database.connection() as connection:
        await assert_kept(connection, job)


async def test_a_receipt_that_comes_too_late_is_told_in_the_timeline_and_counted(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    job, operation = await left_for_absence(carrier)
    job = await carrier.finish(job)
    assert (job.status, job.provider) == (JobStatus.COMPLETED, "veo")

    late = (carrier.resources, carrier.leases, job.id, 1, operation)
    fates = [await receipts.settle_late(*late) for _ in range(2)]  # the bucket had a copy

    assert fates == [receipts.Fate.TOO_LATE] * 2
    [told] = [
        event for event in await carrier.queue.history(job.id) if event.type is EventType.OVERTAKEN
    ]
    assert (told.detail["provider"], told.detail["operation_id"]) == ("sora", operation.id)
    after = await carrier.queue.get(job.id)
    assert (after.status, after.provider, after.unknown_attempts) == (JobStatus.COMPLETED, "veo", 1)
    async with carrier.resources.database.connection() as connection:
        await assert_kept(connection, after)
        entries = [
            (entry.kind, entry.attempt, entry.provider, entry.micros, entry.uncertain)
            for entry in await ledger.of_job(connection, job.id)
        ]
    assert entries[-2:] == [
        ("reserved", 1, "sora", 400_000, False),
        ("wasted", 1, "sora", 400_000, True),
    ]


async def test_what_only_a_target_that_was_left_knows_stays_at_the_price_of_that_target(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    changed = carrier.resources.settings.model_copy(update={"on_submit_unknown": "resubmit"})
    object.__setattr__(carrier.resources, "settings", changed)
    simulator.veo.script(a_rule("submit accept-then-disconnect", times=1))
    simulator.veo.script(a_rule("submit 429-per-day"))

    job = await carrier.finish(await carrier.enqueue(VEO))

    [moved] = await moves(carrier, job)
    assert (job.status, job.provider, moved.detail["reason"]) == (
        JobStatus.COMPLETED,
        "sora",
        "quota",
    )
    assert (job.actual_cost_micros, job.unknown_attempts) == (400_000, 1)
    assert lifecycle.spent_micros(job) == 800_000  # its ceiling counts the dearest
    async with carrier.resources.database.connection() as connection:
        await assert_kept(connection, job)
        today = await history.spend_today(connection)
        entries = await ledger.of_job(connection, job.id)
    assert (today.spend_micros, today.unknown_micros) == (400_000, 200_000)
    paid = [
        (one.kind, one.provider, one.micros, one.uncertain) for one in entries if one.kind in PAID
    ]
    assert paid == [("wasted", "veo", 200_000, True), ("charged", "sora", 400_000, False)]


async def test_a_retry_by_hand_begins_at_the_first_target_and_keeps_what_the_last_one_may_bill(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit 429-insufficient_quota", times=1))
    simulator.veo.script(a_rule("submit accept-then-disconnect", times=1))
    failed = await carrier.finish(await carrier.enqueue(SORA))
    assert (failed.provider, failed.error_code) == ("veo", "submit_unknown")

    job = await carrier.finish(await carrier.queue.retry(failed.id))

    assert (job.status, job.provider, job.actual_cost_micros) == (
        JobStatus.COMPLETED,
        "sora",
        400_000,
    )
    async with carrier.resources.database.connection() as connection:
        today = await history.spend_today(connection)
        sums = await ledger.balance(connection, [job.id])
    assert (job.unknown_attempts, today.unknown_micros, sums.uncertain_micros) == (
        1,
        200_000,
        200_000,
    )
    assert (sums.charged_micros, sums.open_micros) == (400_000, 0)
