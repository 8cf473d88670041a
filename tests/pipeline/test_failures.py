"""
Everything a provider can do wrong: each ends with its clear reason, nothing stuck, nothing paid
twice.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from aiohttp import web
from pydantic import SecretStr

from tests.pipeline.conftest import Carrier
from vidgen import InputImage, JobStatus, VideoRequest, lifecycle
from vidgen.errors import InvalidRequestError
from vidgen.job import EventType, Stage
from vidgen.resources import Resources
from vidgen.settings import Settings
from vidgen.simulator.clips import render
from vidgen.simulator.control import Rule
from vidgen.simulator.s3 import S3Server
from vidgen.simulator.server import SimulatorServer
from vidgen.store import jobs

SORA = VideoRequest(provider="sora", prompt="a tram in the rain", seconds=4)
VEO = VideoRequest(provider="veo", prompt="a tram in the rain", seconds=4)


@pytest.fixture(autouse=True)
def quick(simulator: SimulatorServer) -> None:
    clip = render("tram", seconds=1, width=320, height=180, audio=False)
    for provider in simulator.simulators.values():
        provider.generation_s = 0.1
        provider.clip = clip


def a_rule(text: str, **more: int) -> Rule:
    deed, _, outcome = text.partition(" ")
    name, _, argument = outcome.partition(" ")
    return Rule(deed=deed, outcome=name, argument=argument or None, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("request_", "rule", "code", "bills"),
    [
        (SORA, "submit 400", "input_rejected", 0),
        (SORA, "submit 400-image", "input_rejected", 0),
        (SORA, "submit 400-moderation", "content_blocked", 0),
        (SORA, "submit 401", "provider_auth", 0),
        (SORA, "submit 403", "provider_auth", 0),
        (SORA, "submit 404-model", "model_retired", 0),
        (SORA, "submit 410", "model_retired", 0),
        (SORA, "submit 429-insufficient_quota", "quota_exhausted", 0),
        (SORA, "poll moderation", "content_blocked", 1),
        (VEO, "submit 400", "input_rejected", 0),
        (VEO, "submit 400-api-key", "provider_auth", 0),
        (VEO, "submit 404-model", "model_retired", 0),
        (VEO, "submit 429-per-day", "quota_exhausted", 0),
        (VEO, "submit 502", "submit_unknown", 0),
        (VEO, "submit accept-then-disconnect", "submit_unknown", 1),
        (VEO, "submit accept-then-502", "submit_unknown", 1),
        (VEO, "submit accept-then-500", "submit_unknown", 1),
        (VEO, "submit html", "submit_unknown", 1),
        (VEO, "submit not-json", "submit_unknown", 1),
        (VEO, "submit missing-id", "submit_unknown", 1),
        (VEO, "submit empty", "submit_unknown", 1),
        (VEO, "poll filtered", "content_blocked", 1),
        (VEO, "poll error 3", "input_rejected", 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_no_repetition_can_mend_fails_at_once(
    carrier: Carrier,
    simulator: SimulatorServer,
    request_: VideoRequest,
    rule: str,
    code: str,
    bills: int,
) -> None:
    provider = simulator.simulators[request_.provider]
    provider.script(a_rule(rule))

    job = await carrier.finish(await carrier.enqueue(request_))

    assert (job.status, job.error_code) == (JobStatus.FAILED, code)
    assert job.error_message
    assert request_.prompt not in job.error_message
    assert len(provider.bill) == bills


@pytest.mark.parametrize(
    ("request_", "rule"),
    [
        (SORA, "submit 429-retry-after-ms 20"),
        (SORA, "submit 503"),
        (SORA, "poll 500"),
        (SORA, "poll 503"),
        (SORA, "poll 429-retry-after-ms 20"),
        (SORA, "poll 404"),
        (SORA, "poll 401"),
        (SORA, "poll html"),
        (SORA, "poll half-json"),
        (SORA, "poll missing-status"),
        (SORA, "poll disconnect"),
        (SORA, "poll huge"),
        (SORA, "content not-ready"),
        (SORA, "content 500"),
        (SORA, "content truncated"),
        (SORA, "content truncated-chunked"),
        (SORA, "content html"),
        (SORA, "content disconnect"),
        (SORA, "content redirect"),
        (SORA, "content redirect-foreign"),
        (VEO, "submit 503"),
        (VEO, "poll 503"),
        (VEO, "poll json-list"),
        (VEO, "content truncated"),
        (VEO, "content 403"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_passing_trouble_costs_neither_the_video_nor_a_second_one(
    carrier: Carrier, simulator: SimulatorServer, s3: S3Server, request_: VideoRequest, rule: str
) -> None:
    provider = simulator.simulators[request_.provider]
    provider.script(a_rule(rule, times=1 if rule == "content 403" else 2))

    job = await carrier.finish(await carrier.enqueue(request_))

    assert job.status is JobStatus.COMPLETED, job
    assert (job.attempt, len(provider.bill)) == (1, 1)
    assert job.error_code is None
    assert not s3.uploads()


async def test_a_download_that_breaks_is_taken_up_within_one_upload(
    carrier: Carrier, simulator: SimulatorServer, s3: S3Server
) -> None:
    for rule in (Rule(deed="content", outcome="ranges"), a_rule("content truncated", times=2)):
        simulator.sora.script(rule)

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert job.status is JobStatus.COMPLETED, job
    begun = [one.headers.get("range") is None for one in simulator.sora.of("content")]
    assert begun == [True, False, False, True, True]  # the video in three pieces, two pictures
    assert [one.operation for one in s3.requests if one.key.endswith(".mp4")] == ["PutObject"]


async def test_a_download_of_which_another_version_comes_starts_over(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    for rule in (
        Rule(deed="content", outcome="ranges-changing"),
        a_rule("content truncated", times=1),
    ):
        simulator.sora.script(rule)

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert job.status is JobStatus.COMPLETED, job
    begun = [one.headers.get("range") is None for one in simulator.sora.of("content")]
    assert begun == [True, False, True, True, True]


async def test_a_failed_generation_is_tried_anew_as_long_as_attempts_remain(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll failed", times=2))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.attempt) == (JobStatus.COMPLETED, 3)
    assert len(simulator.sora.bill) == 3
    types = [event.type for event in await carrier.queue.history(job.id)]
    assert types.count(EventType.REATTEMPTED) == 2


async def test_a_video_fails_for_good_after_its_last_attempt(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll failed"))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.error_code, job.attempt) == (JobStatus.FAILED, "generation_failed", 3)
    assert len(simulator.sora.bill) == 3


async def test_a_job_that_never_gets_as_far_as_its_submit_ends_with_its_last_error(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    async with no_images() as url:
        request = replace(SORA, images=(InputImage(url=url),))

        job = await carrier.finish(await carrier.queue.enqueue(request, deadline_s=1))

    assert (job.status, job.stage, job.attempt) == (JobStatus.FAILED, Stage.QUEUED, 0)
    assert job.error_code == "provider_unavailable"
    assert job.error_message is not None
    assert job.error_message.startswith("not done within its 1 s; last: ")
    assert not simulator.sora.bill


@asynccontextmanager
async def no_images() -> AsyncIterator[str]:
    """The address of an image at a server that has no time."""

    async def busy(_: web.Request) -> web.Response:
        return web.Response(status=503)

    app = web.Application()
    app.router.add_get("/frame.png", busy)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        _, port = runner.addresses[0]
        yield f"http://127.0.0.1:{port}/frame.png"
    finally:
        await runner.cleanup()


async def test_a_worker_that_dies_with_a_job_each_time_does_not_do_so_for_ever(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    job = await carrier.queue.enqueue(SORA, deadline_s=1)
    async with carrier.resources.database.connection() as connection:
        held = await jobs.apply(connection, job.id, lifecycle.claimed(), worker_id=UUID(int=1))
        change = lifecycle.released(held, "worker_lost")
        await jobs.apply(connection, job.id, change, lease=held.lease)
        await connection.execute("UPDATE video_jobs SET deadline_at = deadline_at - interval '2 s'")

    failed = await carrier.finish(await carrier.queue.get(job.id))

    assert (failed.status, failed.error_code) == (JobStatus.FAILED, "generation_timeout")
    assert not simulator.sora.bill


async def test_a_generation_without_a_verdict_times_out_and_a_retry_looks_at_it_first(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("poll never", times=1))
    job = await carrier.queue.enqueue(SORA, deadline_s=1)

    failed = await carrier.finish(job)

    assert (failed.status, failed.error_code) == (JobStatus.FAILED, "generation_timeout")
    assert failed.operation is not None
    for generation in simulator.sora.generations.values():
        generation.fate = None
    done = await carrier.finish(await carrier.queue.retry(job.id))
    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)


async def test_an_unknown_status_runs_on(carrier: Carrier, simulator: SimulatorServer) -> None:
    simulator.sora.script(a_rule("poll status dreaming", times=3))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert job.status is JobStatus.COMPLETED


async def test_an_expired_result_is_looked_at_once_more_and_then_given_up(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    simulator.sora.script(a_rule("content 410"))

    job = await carrier.finish(await carrier.enqueue(SORA))

    assert (job.status, job.error_code) == (JobStatus.FAILED, "result_expired")
    assert job.stage is Stage.TRANSFERRING
    assert len(simulator.sora.bill) == 1


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"s3_bucket": "nowhere"}, "bucket_missing"),
        ({"aws_secret_access_key": SecretStr("wrong")}, "storage_denied"),
        ({"s3_endpoint_url": "http://127.0.0.1:9"}, "storage_unavailable"),
    ],
)
class TestWithoutABucket:
    @pytest.fixture
    def settings(self, settings: Settings, change: dict[str, object], code: str) -> Settings:
        return settings.model_copy(update=change)

    async def test_the_video_waits_until_its_deadline_and_says_why(
        self, carrier: Carrier, simulator: SimulatorServer, s3: S3Server, code: str
    ) -> None:
        job = await carrier.finish(await carrier.queue.enqueue(SORA, deadline_s=1))

        assert (job.status, job.error_code, job.stage) == (
            JobStatus.FAILED,
            code,
            Stage.TRANSFERRING,
        )
        assert len(simulator.sora.bill) == 1
        assert not s3.uploads()


async def test_a_missing_key_says_which_variable_to_set(
    resources: Resources, carrier: Carrier
) -> None:
    request = VideoRequest(provider="veo", model="veo-3.1-generate-001", prompt="a tram", seconds=4)

    job = await carrier.finish(await carrier.enqueue(request))

    assert (job.status, job.error_code) == (JobStatus.FAILED, "provider_not_configured")
    assert "GOOGLE_CLOUD_PROJECT_ID" in (job.error_message or "")


async def test_an_image_that_cannot_be_fetched_fails_before_money_is_spent(
    carrier: Carrier, simulator: SimulatorServer
) -> None:
    image = InputImage(url=f"{simulator.foreign.origin}/no/such/picture.png")
    request = VideoRequest(provider="sora", prompt="a tram", seconds=4, images=(image,))

    job = await carrier.finish(await carrier.enqueue(request))

    assert job.status is JobStatus.FAILED
    assert job.attempt == 0
    assert not simulator.sora.bill


async def test_an_unreadable_image_is_refused_at_once(carrier: Carrier) -> None:
    image = InputImage(data=b"<html>no picture</html>")
    request = VideoRequest(provider="sora", prompt="a tram", seconds=4, images=(image,))

    with pytest.raises(InvalidRequestError):
        await carrier.enqueue(request)

    assert (await carrier.queue.stats()).total == 0


async def test_a_hand_over_costs_no_attempt(carrier: Carrier, simulator: SimulatorServer) -> None:
    simulator.sora.generation_s = 0.6
    job = await carrier.enqueue(SORA)
    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.carry(job))
        async with asyncio.timeout(5):
            await simulator.sora.arrived("poll")
        carrier.leases.hand_over(urgent=False)
        job = await carrying
    assert (job.status, job.stage, job.worker_id) == (JobStatus.PROCESSING, Stage.GENERATING, None)
    assert job.due_at is not None

    carrier.leases._handing_over = False  # a peer would do it
    done = await carrier.finish(job)

    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)


async def test_the_turns_of_one_provider_do_not_hold_up_another(
    settings: Settings, simulator: SimulatorServer, carrier: Carrier
) -> None:
    object.__setattr__(carrier.resources.rate_limit, "_limit_per_min", 1)
    first, second = await carrier.enqueue(SORA), await carrier.enqueue(SORA)
    await carrier.finish(first)

    waiting = await carrier.carry(second)
    done = await carrier.finish(await carrier.enqueue(VEO))

    assert (waiting.status, waiting.stage, waiting.attempt) == (
        JobStatus.PENDING,
        Stage.QUEUED,
        0,
    )
    assert done.status is JobStatus.COMPLETED
    assert len(simulator.sora.bill) == 1


async def test_a_lost_worker_s_job_goes_on_where_it_was(
    carrier: Carrier, simulator: SimulatorServer, tmp_path: Path
) -> None:
    simulator.sora.generation_s = 0.5
    job = await carrier.enqueue(SORA)
    async with asyncio.TaskGroup() as group:
        carrying = group.create_task(carrier.carry(job))
        async with asyncio.timeout(5):
            await simulator.sora.arrived("poll")
        carrying.cancel()
    async with carrier.resources.database.connection() as connection:
        await connection.execute("UPDATE workers SET heartbeat_at = now() - interval '1 hour'")
        await connection.execute(
            "UPDATE video_jobs SET worker_id = $1, due_at = NULL WHERE worker_id IS NULL",
            carrier.leases.id,
        )

    await carrier.sweep()
    done = await carrier.finish(await carrier.queue.get(job.id))

    assert (done.status, done.attempt, len(simulator.sora.bill)) == (JobStatus.COMPLETED, 1, 1)
