"""Runway's own ways: two addresses, credits, words of failure, addresses that end."""

from dataclasses import replace
from datetime import date
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
    OperationLostError,
    ProtocolError,
    ProviderError,
    QuotaExhaustedError,
    ResultExpiredError,
)
from vidgen.job import InputImage, VideoRequest
from vidgen.providers.protocol import Asset, Failed, ImageBytes, Running, Succeeded
from vidgen.providers.registry import FindsRecent, ProvidersConfig
from vidgen.providers.runway import parse_task
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.testing.provider_wire import CLIP, KEY, Wire, an_image, finished_asset, opened

pytestmark = pytest.mark.parametrize("wire", ["runway"], indirect=True)


def ended(code: object, credits_used: object = 0) -> Failed:
    progress = parse_task(
        {"status": "FAILED", "failureCode": code, "cost": {"credits": credits_used}}
    )
    assert isinstance(progress, Failed)
    return progress


async def test_words_and_an_image_go_to_two_addresses_with_the_version(wire: Wire) -> None:
    await wire.submit()
    await wire.submit(an_image())

    sent = wire.simulator.of("submit")
    assert [each.path.rpartition("/")[2] for each in sent] == ["text_to_video", "image_to_video"]
    assert {each.headers["x-runway-version"] for each in sent} == {"2024-11-06"}


async def test_a_first_and_a_last_frame_have_their_positions(wire: Wire) -> None:
    await wire.submit(an_image(), an_image("last_frame"), model="veo3.1", audio=False)

    body = wire.simulator.of("submit")[-1].body
    assert isinstance(body, dict)
    images = body["promptImage"]
    assert isinstance(images, list)
    assert [image["position"] for image in images if isinstance(image, dict)] == ["first", "last"]
    assert body["audio"] is False


async def test_an_image_too_long_for_a_request_is_refused_before_it_is_sent(wire: Wire) -> None:
    huge = ImageBytes(role="first_frame", content_type="image/png", data=bytes(4 * 1024 * 1024))

    with pytest.raises(InputRejectedError, match="at most 3840 KiB"):
        await wire.submit(huge)

    assert not wire.simulator.received


async def test_a_finished_task_tells_what_it_cost(wire: Wire) -> None:
    progress = await wire.poll(await wire.submit(seconds=5))

    assert isinstance(progress, Succeeded)
    assert progress.cost_micros == 600_000  # 5 seconds, 12 credits each, a cent each


@pytest.mark.parametrize("word", ["PENDING", "THROTTLED", "RUNNING", "SLEEPING", None, 7])
def test_every_word_but_an_end_means_that_it_runs(wire: Wire, word: object) -> None:
    assert isinstance(parse_task({"status": word}), Running)


def test_progress_is_a_share(wire: Wire) -> None:
    assert parse_task({"status": "RUNNING", "progress": 0.457}) == Running(percent=45)
    assert parse_task({"status": "RUNNING", "progress": 7}) == Running(percent=100)
    assert parse_task({"status": "RUNNING", "progress": "nan"}) == Running()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("SAFETY.INPUT.TEXT", ContentBlockedError),
        ("SAFETY.OUTPUT.VIDEO", ContentBlockedError),
        ("SAFETY", ContentBlockedError),
        ("INPUT_PREPROCESSING.SAFETY.THIRD_PARTY", ContentBlockedError),
        ("ASSET.INVALID", InputRejectedError),
        ("THIRD_PARTY.INPUT_VALIDATION", InputRejectedError),
        ("INTERNAL.BAD_OUTPUT.CODE01", GenerationFailedError),
        ("INPUT_PREPROCESSING.INTERNAL", GenerationFailedError),
        ("THIRD_PARTY.UNAVAILABLE", GenerationFailedError),
        ("INTERNAL", GenerationFailedError),
        ("SOMETHING.NEW", GenerationFailedError),
        (None, GenerationFailedError),
        ("two words", GenerationFailedError),
    ],
)
def test_each_word_of_failure_has_its_class(
    wire: Wire, code: object, kind: type[ProviderError]
) -> None:
    assert type(ended(code).error) is kind


def test_a_failure_is_charged_unless_the_task_says_that_it_was_refunded(wire: Wire) -> None:
    for code, said, charged, cost in (
        ("INTERNAL", 0, False, 0),
        ("SAFETY.INPUT.TEXT", 60, True, 600_000),
        ("INTERNAL", None, True, None),
        ("INTERNAL", "many", True, None),
    ):
        verdict = ended(code, said)
        assert (verdict.charged, verdict.cost_micros) == (charged, cost)


async def test_a_blocked_prompt_stays_charged_and_a_blocked_video_does_not(wire: Wire) -> None:
    for verdict, charged in (("moderation", True), ("filtered", False)):
        wire.script(Rule(deed="poll", outcome=verdict, times=1))

        progress = await wire.poll(await wire.submit())

        assert isinstance(progress, Failed)
        assert progress.charged is charged


async def test_a_refusal_names_the_field_and_not_the_prompt(wire: Wire) -> None:
    with pytest.raises(InputRejectedError) as caught:
        await wire.submit(seconds=11)

    assert "Validation of body failed: duration: Expected one of" in caught.value.message
    assert wire.request.prompt not in caught.value.message


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
async def test_the_address_may_lack_its_version_as_the_sdk_has_it(
    wire: Wire, simulators: SimulatorServer, config: ProvidersConfig, path: str
) -> None:
    paths: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        paths.append(request.path)
        return web.json_response({"id": "task-1"})

    async with listening(answer) as url:
        elsewhere = config.over(RUNWAYML_BASE_URL=f"{url}{path}")
        async with opened(wire.format, simulators, elsewhere) as other:
            operation = await other.submit()

    assert paths == ["/v1/text_to_video"]
    assert operation.endpoint == f"{url}/v1"


async def test_an_account_without_credits_is_told_so_by_a_sentence(wire: Wire) -> None:
    wire.script(Rule(deed="submit", outcome="429-insufficient-quota"))

    with pytest.raises(QuotaExhaustedError, match="enough credits") as caught:
        await wire.submit()

    assert caught.value.http_status == 400


@pytest.mark.parametrize("output", [None, [], [""], "x", [None], ["/relative.mp4"]])
def test_a_task_that_succeeded_without_a_video_is_looked_at_again(
    wire: Wire, output: object
) -> None:
    with pytest.raises(ProtocolError):
        parse_task({"status": "SUCCEEDED", "output": output})


@pytest.mark.parametrize("status", ["400", "403", "404", "410"])
async def test_an_address_that_has_ended_is_replaced_by_a_fresh_look(
    wire: Wire, status: str
) -> None:
    operation, asset = await finished_asset(wire)
    wire.script(Rule(deed="content", outcome=status, times=1))

    with pytest.raises(ResultExpiredError):
        await wire.download(operation, asset)
    again = await wire.poll(operation)

    assert isinstance(again, Succeeded)
    assert again.assets[0].uri != asset.uri
    assert await wire.download(operation, again.assets[0]) == CLIP


async def test_a_foreign_host_that_refuses_says_nothing_about_the_key(
    wire: Wire, simulators: SimulatorServer, config: ProvidersConfig
) -> None:
    heads: list[str] = []

    async def refuse(request: web.Request) -> web.StreamResponse:
        heads.append(str(request.headers))
        return web.Response(status=401)

    config = replace(config, allow_private_addresses=True)
    async with listening(refuse) as url, opened(wire.format, simulators, config) as lenient:
        operation = await lenient.submit()
        asset = Asset(variant="video", uri=f"{url}/video.mp4?_jwt=old")
        with pytest.raises(ResultExpiredError):
            await lenient.download(operation, asset)

    assert len(heads) == 1
    assert KEY not in heads[0]


async def test_cancelling_deletes_the_task(wire: Wire) -> None:
    wire.simulator.generation_s = 60
    operation = await wire.submit()

    assert await wire.provider.cancel(operation, wire.credential) is True
    assert await wire.provider.cancel(operation, wire.credential) is None
    with pytest.raises(OperationLostError):
        await wire.poll(operation)


def test_nothing_lists_tasks(wire: Wire) -> None:
    assert not isinstance(wire.provider, FindsRecent)


def quoted(request: VideoRequest) -> catalog.Quote:
    return catalog.quote(
        request,
        today=date(2026, 11, 26),
        endpoints=catalog.Endpoints.of({}),
        allow_unknown_models=False,
    )


def test_what_runway_would_refuse_or_ignore_is_refused_before(wire: Wire) -> None:
    wanted = VideoRequest(provider="runway", prompt="a kite")
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"size": "960x960"}, "from an image only"),
        ({"prompt": "🪁" * 501}, "1002 characters as Runway counts them"),
        ({"model": "gen4_turbo"}, "needs 1 first_frame"),
        ({"audio": True}, "makes no sound"),
        ({"negative_prompt": "rain"}, "takes no negative_prompt"),
        ({"extra": {"outputFormat": "prores"}}, "outputFormat"),
        ({"extra": {"cameraMotion": "left"}}, "takes extra contentModeration"),
        ({"seconds": 11}, "takes seconds 2 to 10"),
        ({"aspect_ratio": "16:9"}, "is told its shape by size"),
    )
    for changes, sentence in refused:
        with pytest.raises(InvalidRequestError, match=sentence):
            quoted(replace(wanted, **changes))


def test_an_image_opens_more_shapes(wire: Wire) -> None:
    image = InputImage(url="https://example.com/kite.png")
    wanted = VideoRequest(
        provider="runway", prompt="a kite", size="960x960", images=(image,), seconds=10
    )

    assert quoted(wanted).cost_micros == 1_200_000
    assert quoted(replace(wanted, model="gen4_turbo")).cost_micros == 500_000
