"""One trace for one video, whoever carries it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from tests.pipeline.conftest import Carrier
from tests.pipeline.test_failures import SORA, a_rule, quick
from tests.spans import ENDPOINT, Spans, parent_id, recording, span_id, trace_id
from vidgen import JobStatus
from vidgen.job import EventType, Stage, VideoJob
from vidgen.live import Wakes
from vidgen.pipeline.leases import Leases
from vidgen.resources import Resources
from vidgen.settings import Settings
from vidgen.simulator.server import SimulatorServer

__all__ = ["quick"]

STAGES = ["vidgen.submit", "vidgen.poll", "vidgen.transfer"]
TIMEOUT_S = 20


@pytest.fixture
def spans() -> Iterator[Spans]:
    with recording() as spans:
        yield spans


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"otlp_endpoint": ENDPOINT})


async def test_a_video_is_one_trace_from_the_caller_s_span_to_the_stored_video(
    spans: Spans, carrier: Carrier
) -> None:
    with trace.get_tracer("a service").start_as_current_span("order"):
        job = await carrier.enqueue(SORA)

    job = await carrier.finish(job)

    assert job.status is JobStatus.COMPLETED
    order, enqueue = spans.one("order"), spans.one("vidgen.enqueue")
    assert {span.name for span in spans.all} == {"order", "vidgen.enqueue", *STAGES}
    assert {trace_id(span) for span in spans.all} == {trace_id(order)}
    assert parent_id(enqueue) == span_id(order)
    assert {parent_id(spans.one(name)) for name in STAGES} == {span_id(enqueue)}


async def test_spans_tell_the_job_and_never_the_prompt(spans: Spans, carrier: Carrier) -> None:
    job = await carrier.finish(await carrier.enqueue(SORA))

    told = spans.one("vidgen.poll").attributes or {}
    assert told["vidgen.job_id"] == str(job.id)
    assert (told["vidgen.provider"], told["vidgen.model"]) == ("sora", "sora-2")
    assert told["vidgen.attempt"] == 1
    assert job.operation is not None
    assert told["vidgen.operation_id"] == job.operation.id
    everything = "".join(span.to_json() for span in spans.all)
    for secret in ("a tram in the rain", "sk-simulated", "http://", "https://"):
        assert secret not in everything


async def test_looks_that_fail_are_events_of_the_one_span_of_all_looks(
    spans: Spans, carrier: Carrier, simulator: SimulatorServer
) -> None:
    job = await carrier.enqueue(SORA)
    simulator.sora.script(a_rule("poll 503", times=2))

    await carrier.finish(job)

    poll = spans.one("vidgen.poll")
    assert [event.name for event in poll.events] == ["look failed", "look failed"]
    assert poll.status.status_code is StatusCode.UNSET


async def test_after_a_hand_over_the_trace_goes_on_with_the_next_worker(
    spans: Spans, resources: Resources, simulator: SimulatorServer
) -> None:
    simulator.sora.generation_s = 1.5
    async with a_worker(resources) as first, a_worker(resources) as second:
        job = await first.enqueue(SORA)
        async with asyncio.TaskGroup() as group:
            group.create_task(first.carry(job))
            await until(first, job, Stage.GENERATING)
            first.leases.hand_over(urgent=False)
        job = await second.finish(await second.queue.get(job.id))

    assert job.status is JobStatus.COMPLETED
    enqueue = spans.one("vidgen.enqueue")
    polls = spans.named("vidgen.poll")
    assert len(polls) == 2
    assert [(poll.attributes or {}).get("vidgen.interrupted") for poll in polls] == [
        "hand_over",
        None,
    ]
    assert all(poll.status.status_code is StatusCode.UNSET for poll in polls)
    assert {trace_id(span) for span in spans.all} == {trace_id(enqueue)}
    assert {parent_id(span) for span in spans.all if span.name in STAGES} == {span_id(enqueue)}


async def test_a_job_enqueued_by_somebody_who_traces_nothing_is_one_trace_all_the_same(
    spans: Spans, carrier: Carrier, settings: Settings
) -> None:
    job = await carrier.enqueue(SORA)
    async with carrier.resources.database.connection() as connection:
        await connection.execute("UPDATE video_jobs SET traceparent = NULL")

    await carrier.finish(job)

    begun = spans.one("vidgen.carry")
    assert {parent_id(spans.one(name)) for name in STAGES} == {span_id(begun)}


async def test_many_enqueued_at_once_belong_to_the_same_trace(
    spans: Spans, carrier: Carrier
) -> None:
    jobs = await carrier.queue.enqueue_many([SORA, SORA])

    for job in jobs:
        await carrier.finish(job)

    enqueue = spans.one("vidgen.enqueue")
    assert (enqueue.attributes or {})["vidgen.jobs"] == 2
    assert {parent_id(span) for span in spans.named("vidgen.transfer")} == {span_id(enqueue)}


async def test_an_error_of_a_stage_ends_its_span_with_the_code(
    spans: Spans, carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("submit 401"))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert job.status is JobStatus.FAILED
    submit = spans.one("vidgen.submit")
    assert submit.status.status_code is StatusCode.ERROR
    assert (submit.attributes or {})["error.type"] == "provider_auth"


@asynccontextmanager
async def a_worker(resources: Resources) -> AsyncIterator[Carrier]:
    """One more worker over the same *resources*."""
    async with asyncio.TaskGroup() as group:
        leases = Leases(resources, group)
        await leases.join()
        loop = group.create_task(leases.run())
        try:
            yield Carrier(resources, leases, Wakes())
        finally:
            loop.cancel()


async def until(carrier: Carrier, job: VideoJob, stage: Stage) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        async for event in carrier.queue.events(job.id):
            if event.stage is stage and event.type is EventType.SUBMITTED:
                return
