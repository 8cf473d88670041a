"""Replicate's own ways: two addresses, any model, results for an hour, a list that proves."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from tests.providers.test_http import listening
from vidgen import catalog
from vidgen.errors import (
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    InvalidRequestError,
    ProtocolError,
    QuotaExhaustedError,
    RateLimitedError,
    ResultExpiredError,
    SubmitUnknownError,
    TransientError,
    UnknownModelError,
)
from vidgen.job import InputImage, VideoRequest
from vidgen.providers.protocol import Failed, Listing, Running, Succeeded
from vidgen.providers.registry import FindsRecent, ProvidersConfig
from vidgen.providers.replicate import parse_prediction
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.testing.provider_wire import Wire, an_image, opened

pytestmark = pytest.mark.parametrize("wire", ["replicate"], indirect=True)
VERSION = "5a" * 32
LISTED, OPEN = "bytedance/seedance-1-pro", "someone/something"
PLAIN: dict[str, Any] = {"seconds": None, "aspect_ratio": None, "resolution": None}


async def listed(wire: Wire, **changes: Any) -> Listing:
    finder = wire.provider
    assert isinstance(finder, FindsRecent)
    since = datetime.now(UTC) - timedelta(hours=1)
    return await finder.find_recent(wire.submission(**changes), since, wire.credential)


async def recent(wire: Wire, **changes: Any) -> list[str]:
    return [each.id for each in (await listed(wire, **changes)).candidates]


@pytest.mark.parametrize(
    ("model", "path", "version"),
    [
        (OPEN, f"models/{OPEN}/predictions", None),
        (f"{OPEN}:{VERSION}", "predictions", VERSION),
        (VERSION, "predictions", VERSION),
    ],
)
async def test_any_model_goes_by_its_name_or_its_version(
    wire: Wire, model: str, path: str, version: str | None
) -> None:
    operation = await wire.submit(model=model, extra={"num_frames": 81}, **PLAIN)

    sent = wire.simulator.of("submit")[-1]
    assert sent.path.endswith(f"/v1/{path}")
    assert isinstance(sent.body, dict)
    assert sent.body.get("version") == version
    assert sent.body["input"] == {"prompt": wire.request.prompt, "num_frames": 81}
    assert isinstance(await wire.poll(operation), Succeeded)


@pytest.mark.parametrize("model", ["kite", "a/b/c", "a/b:latest", "../account", "a/b?c", ""])
async def test_what_is_no_name_there_is_sent_nowhere(wire: Wire, model: str) -> None:
    with pytest.raises(InputRejectedError):
        await wire.submit(model=model)

    assert not wire.simulator.received


async def test_both_frames_go_along_by_their_names(wire: Wire) -> None:
    await wire.submit(an_image(), an_image("last_frame"), aspect_ratio=None)

    body = wire.simulator.of("submit")[-1].body
    assert isinstance(body, dict)
    given = body["input"]
    assert isinstance(given, dict)
    assert {"image", "last_frame_image"} <= given.keys()
    assert "aspect_ratio" not in given


async def test_a_result_is_kept_for_an_hour_and_costs_what_came_out(wire: Wire) -> None:
    operation = await wire.submit()
    progress = await wire.poll(operation)

    assert isinstance(progress, Succeeded)
    assert progress.cost_micros == 8 * 60_000
    assert progress.expires_at is not None
    left = progress.expires_at - datetime.now(UTC)
    assert timedelta(minutes=59) < left <= timedelta(hours=1)

    generation = wire.simulator.generations[operation.id]
    generation.created_at = generation.ready_at = generation.ready_at - 3700
    gone = await wire.poll(operation)

    assert isinstance(gone, Failed)
    assert type(gone.error) is ResultExpiredError
    assert gone.charged


@pytest.mark.parametrize(
    ("output", "uri"),
    [
        ("https://replicate.delivery/a.mp4", "https://replicate.delivery/a.mp4"),
        (["https://replicate.delivery/a.mp4"], "https://replicate.delivery/a.mp4"),
        ({"video": "https://replicate.delivery/a.mp4"}, "https://replicate.delivery/a.mp4"),
        (None, None),
        ([], None),
        ({}, None),
        ("a text", None),
    ],
)
def test_the_video_is_the_first_that_came_out(wire: Wire, output: object, uri: str | None) -> None:
    prediction = {"status": "succeeded", "output": output}
    if uri is None:
        with pytest.raises(ProtocolError):
            parse_prediction(prediction, OPEN)
        return

    progress = parse_prediction(prediction, OPEN)

    assert isinstance(progress, Succeeded)
    assert progress.assets[0].uri == uri
    assert progress.cost_micros is None


@pytest.mark.parametrize("word", ["starting", "processing", "queued", None])
def test_every_word_but_an_end_means_that_it_runs(wire: Wire, word: object) -> None:
    assert parse_prediction({"status": word}, OPEN) == Running()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("The input or output was flagged as sensitive. (E005)", ContentBlockedError),
        ("NSFW content detected. Try running it again.", ContentBlockedError),
        ("CUDA out of memory", GenerationFailedError),
        ("", GenerationFailedError),
        (None, GenerationFailedError),
        (["x"], GenerationFailedError),
    ],
)
def test_moderation_is_told_by_its_sentence(
    wire: Wire, error: object, kind: type[Exception]
) -> None:
    progress = parse_prediction({"status": "failed", "error": error}, OPEN)

    assert isinstance(progress, Failed)
    assert type(progress.error) is kind


def test_a_failure_is_charged_where_the_time_is_billed_and_some_was_used(wire: Wire) -> None:
    for status in ("failed", "canceled", "aborted"):
        for metrics, started_at, charged in (
            ({"predict_time": 12.5}, "2026-11-26T04:00:00Z", True),
            ({"predict_time": 0}, "2026-11-26T04:00:00Z", False),
            ({}, "2026-11-26T04:00:00Z", True),
            (None, None, False),
        ):
            prediction = {"status": status, "metrics": metrics, "started_at": started_at}
            by_time, by_output = (parse_prediction(prediction, model) for model in (OPEN, LISTED))

            assert isinstance(by_time, Failed)
            assert isinstance(by_output, Failed)
            assert (by_time.charged, by_output.charged) == (charged, False)


async def test_money_is_a_402_and_the_seconds_to_wait_stand_in_a_sentence(
    wire: Wire, simulators: SimulatorServer, config: ProvidersConfig
) -> None:
    wire.script(Rule(deed="submit", outcome="429-insufficient-quota", times=1))
    with pytest.raises(QuotaExhaustedError) as caught:
        await wire.submit()
    assert caught.value.http_status == 402

    async def throttle(_: web.Request) -> web.StreamResponse:
        detail = "Request was throttled. Your rate limit resets in ~30s."
        return web.json_response({"detail": detail}, status=429)

    async with listening(throttle) as url:
        elsewhere = config.over(REPLICATE_BASE_URL=f"{url}/v1")
        async with opened(wire.format, simulators, elsewhere) as throttled:
            with pytest.raises(RateLimitedError) as limited:
                await throttled.submit()

    assert limited.value.retry_after_s == 30


async def test_a_started_video_is_found_again_by_what_was_asked_for(wire: Wire) -> None:
    mine = await wire.submit()
    await wire.submit(prompt="something else")
    await wire.submit(seconds=4)
    await wire.submit(resolution="480p")
    await wire.submit(seed=7, prompt=wire.request.prompt, model="bytedance/seedance-1-lite")
    twin = await wire.submit()

    assert set(await recent(wire)) == {mine.id, twin.id}
    assert await recent(wire, prompt="never asked for") == []


async def test_one_that_went_by_its_version_is_found_by_that(wire: Wire) -> None:
    mine = await wire.submit(model=f"{OPEN}:{VERSION}", **PLAIN)
    await wire.submit(model="6b" * 32, **PLAIN)

    assert await recent(wire, model=f"{OPEN}:{VERSION}", **PLAIN) == [mine.id]


async def test_a_long_list_is_read_page_by_page(wire: Wire) -> None:
    mine = await wire.submit(prompt="the oldest")
    for number in range(205):
        await wire.submit(prompt=f"number {number}")

    assert await recent(wire, prompt="the oldest") == [mine.id]
    assert wire.simulator.counts["list"] == 3


async def test_a_list_that_goes_on_elsewhere_is_not_followed(wire: Wire) -> None:
    simulator, foreign = wire.simulator, wire.simulators.foreign
    home = simulator.origin
    for number in range(101):
        await wire.submit(prompt=f"number {number}")
    simulator.origin = foreign.origin  # what the simulator writes into `next`

    with pytest.raises(ProtocolError, match="another server"):
        await recent(wire)

    simulator.origin = home
    assert not foreign.received


async def test_a_list_that_cannot_be_had_proves_nothing(wire: Wire) -> None:
    for outcome, kind in (
        ("404", SubmitUnknownError),
        ("503", TransientError),
        ("not-json", ProtocolError),
        ("missing-id", ProtocolError),
    ):
        wire.script(Rule(deed="list", outcome=outcome, times=1))

        with pytest.raises(kind):
            await recent(wire)


async def test_an_input_that_was_removed_leaves_it_open(wire: Wire) -> None:
    operation = await wire.submit()
    generation = wire.simulator.generations[operation.id]
    generation.ready_at -= 3700  # the input is removed an hour after the end

    listing = await listed(wire)

    assert listing.candidates == ()
    assert [each.id for each in listing.doubtful] == [operation.id]


async def test_cancelling_stops_what_runs_and_nothing_else(wire: Wire) -> None:
    wire.simulator.generation_s = 60
    running = await wire.submit()
    wire.simulator.generation_s = 0
    finished = await wire.submit()

    assert await wire.provider.cancel(running, wire.credential) is True
    assert await wire.provider.cancel(finished, wire.credential) is False
    unknown = replace(running, id="nothing")
    assert await wire.provider.cancel(unknown, wire.credential) is None

    assert isinstance(await wire.poll(running), Failed)
    assert isinstance(await wire.poll(finished), Succeeded)


def test_a_listed_model_is_checked_and_any_other_is_told_the_prompt_only(wire: Wire) -> None:
    def quoted(**fields: Any) -> catalog.Quote:
        return catalog.quote(
            VideoRequest(provider="replicate", prompt="a kite", **fields),
            today=date(2026, 11, 26),
            endpoints=catalog.Endpoints.of({}),
            allow_unknown_models=False,
        )

    image = InputImage(url="https://example.com/kite.png")
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"images": (image,), "aspect_ratio": "16:9"}, "would be ignored"),
        ({"audio": True}, "makes no sound"),
        ({"extra": {"frames": 3}}, "takes extra camera_fixed, fps"),
        ({"model": OPEN, "seconds": 5}, "takes seconds nothing"),
        ({"model": OPEN, "resolution": "720p"}, "takes resolution nothing"),
        ({"model": OPEN, "audio": True}, "goes by extra"),
        ({"model": OPEN, "images": (image,)}, "an image as nothing"),
        ({"model": OPEN, "extra": {"prompt": "another"}}, "vidgen sets itself"),
    )
    for fields, sentence in refused:
        with pytest.raises(InvalidRequestError, match=sentence):
            quoted(**fields)
    with pytest.raises(UnknownModelError):
        quoted(model="kite")
    assert quoted(seconds=10, resolution="1080p").cost_micros == 1_500_000
    assert quoted(model=OPEN, extra={"num_frames": 81}).cost_micros is None
    assert quoted(model=f"{OPEN}:{VERSION}").request.seconds is None
