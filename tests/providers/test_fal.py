"""fal's own ways: two calls for one look, and apps that name their inputs as they like."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date
from typing import Any

import orjson
import pytest

from tests.providers.formats.all import FORMATS
from vidgen.catalog import Endpoints, Quote, quote
from vidgen.errors import (
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    InvalidRequestError,
    OperationLostError,
    QuotaExhaustedError,
    UnknownModelError,
    VidgenError,
)
from vidgen.job import InputImage, VideoRequest
from vidgen.providers.answer import Answer
from vidgen.providers.fal import build_input, parse_result, said
from vidgen.providers.protocol import Failed, Running, Succeeded
from vidgen.providers.registry import ProvidersConfig
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.testing.provider_wire import Wire, an_image, finished_asset, opened

KLING = "fal-ai/kling-video/v2.5-turbo/pro/text-to-video"


@pytest.fixture
async def fal(simulators: SimulatorServer, config: ProvidersConfig) -> AsyncIterator[Wire]:
    async with opened(FORMATS["fal"], simulators, config) as wire:
        yield wire


async def ended(fal: Wire, verdict: str) -> Failed:
    fal.script(Rule(deed="poll", outcome=verdict, times=1))
    progress = await fal.poll(await fal.submit())
    assert isinstance(progress, Failed)
    return progress


async def test_a_request_is_followed_by_owner_and_name_though_its_app_has_a_path(
    fal: Wire,
) -> None:
    operation = await fal.submit(model=KLING, seconds=5, resolution=None, audio=None)

    await fal.poll(operation)

    base = f"{fal.simulator.origin}/fal-ai/kling-video/requests/{operation.id}"
    assert operation.model == KLING
    assert operation.extra == {
        "status_url": f"{base}/status",
        "response_url": base,
        "cancel_url": f"{base}/cancel",
    }
    assert [request.path for request in fal.simulator.received][1:] == [
        f"/fal/fal-ai/kling-video/requests/{operation.id}/status",
        f"/fal/fal-ai/kling-video/requests/{operation.id}",
    ]


async def test_an_operation_without_addresses_is_found_all_the_same(fal: Wire) -> None:
    operation = replace(await fal.submit(), extra={})

    assert isinstance(await fal.poll(operation), Succeeded)


async def test_addresses_elsewhere_are_never_asked(fal: Wire) -> None:
    elsewhere = f"{fal.simulators.foreign.origin}/requests/1"
    named = {"status_url": elsewhere, "response_url": elsewhere, "cancel_url": elsewhere}
    operation = replace(await fal.submit(), extra=named)

    assert isinstance(await fal.poll(operation), Succeeded)
    assert await fal.provider.cancel(operation, fal.credential) is False
    assert not fal.simulators.foreign.received


async def test_the_result_is_not_asked_for_before_it_is_there(fal: Wire) -> None:
    fal.simulator.generation_s = 60
    operation = await fal.submit()

    waiting = await fal.poll(operation)
    fal.simulator.generations[operation.id].created_at -= 30

    assert (waiting, await fal.poll(operation)) == (Running(percent=0), Running())
    assert all(not each.path.endswith(operation.id) for each in fal.simulator.received)


async def test_a_word_that_nobody_knows_is_running(fal: Wire) -> None:
    operation = await fal.submit()
    fal.script(Rule(deed="poll", outcome="status", argument="DREAMING"))

    assert isinstance(await fal.poll(operation), Running)


async def test_what_broke_at_fal_is_free_and_what_an_app_rejects_may_not_be(fal: Wire) -> None:
    broken = await ended(fal, "failed")
    blocked = await ended(fal, "moderation")

    assert (type(broken.error), broken.charged) == (GenerationFailedError, False)
    assert broken.error.provider_code == "runner_disconnected"
    assert (type(blocked.error), blocked.charged) == (ContentBlockedError, True)


async def test_an_input_that_the_app_does_not_take_is_told_with_the_result(fal: Wire) -> None:
    progress = await fal.poll(await fal.submit(seconds=7))

    assert isinstance(progress, Failed)
    assert isinstance(progress.error, InputRejectedError)
    assert progress.charged


async def test_a_cancelled_request_is_over_and_may_be_billed(fal: Wire) -> None:
    progress = await ended(fal, "cancelled")

    assert isinstance(progress.error, GenerationFailedError)
    assert progress.charged


async def test_a_result_that_is_gone_is_lost(fal: Wire) -> None:
    fal.script(Rule(deed="poll", outcome="expired"))

    with pytest.raises(OperationLostError):
        await fal.poll(await fal.submit())


async def test_an_app_that_makes_no_video_is_a_failure(fal: Wire) -> None:
    progress = await ended(fal, "no-samples")

    assert isinstance(progress.error, GenerationFailedError)


async def test_a_cancel_tells_what_came_of_it(fal: Wire) -> None:
    over = await fal.submit()
    fal.simulator.generation_s = 60
    running = await fal.submit()

    assert await fal.provider.cancel(over, fal.credential) is False
    assert await fal.provider.cancel(running, fal.credential) is True
    assert await fal.provider.cancel(running, fal.credential) is None


@pytest.mark.parametrize(
    "result",
    [
        {"video": {"url": "https://v3.fal.media/1.mp4", "content_type": "video/mp4"}},
        {"video": "https://v3.fal.media/1.mp4"},
        {"videos": [{"url": "https://v3.fal.media/1.mp4"}]},
        {"video_url": "https://v3.fal.media/1.mp4"},
        {"output": {"video": {"url": "https://v3.fal.media/1.mp4"}}},
        {"clip": {"url": "https://v3.fal.media/1.mp4", "content_type": "video/mp4"}},
    ],
)
def test_a_video_is_found_where_apps_put_it(result: dict[str, Any]) -> None:
    progress = parse_result(result, {})

    assert isinstance(progress, Succeeded)
    assert progress.assets[0].uri == "https://v3.fal.media/1.mp4"


async def test_each_app_hears_its_own_names(fal: Wire) -> None:
    frames = (an_image(), an_image("last_frame"))
    names = {
        "fal-ai/veo3.1/image-to-video": ("8s", "image_url", "end_image_url"),
        "fal-ai/veo3.1/first-last-frame-to-video": ("8s", "first_frame_url", "last_frame_url"),
        "fal-ai/kling-video/v2.5-turbo/pro/image-to-video": ("8", "image_url", "tail_image_url"),
        "bytedance/seedance-2.0/image-to-video": ("8", "image_url", "end_image_url"),
        "somebody/else": ("8", "image_url", "end_image_url"),
    }
    for model, (seconds, first, last) in names.items():
        found = build_input(fal.submission(*frames, model=model))

        assert (found["duration"], first in found, last in found) == (seconds, True, True)


@pytest.mark.parametrize("model", ["video", "a/../b", "a/b?c", "a//b", "/a/b", "a/b/"])
async def test_what_names_no_app_is_not_asked_for(fal: Wire, model: str) -> None:
    with pytest.raises(InputRejectedError):
        await fal.submit(model=model)

    assert not fal.simulator.received


def test_an_account_without_money_is_no_wrong_key() -> None:
    body = {"detail": "User is locked. Reason: Exhausted balance. Top up your balance."}
    answer = Answer(status=403, headers={}, body=orjson.dumps(body))

    assert said(answer, "submit").kind is QuotaExhaustedError


async def test_a_clip_of_the_public_address_is_fetched(fal: Wire) -> None:
    operation, asset = await finished_asset(fal)

    await fal.download(operation, asset)

    assert asset.content_type == "video/mp4"


def asked(**fields: Any) -> Quote:
    request = VideoRequest(provider="fal", **({"prompt": "a kite"} | fields))
    endpoints = Endpoints.of({"FAL_KEY": "k"})
    return quote(request, today=date(2026, 11, 26), endpoints=endpoints, allow_unknown_models=False)


@pytest.mark.parametrize(
    ("fields", "cost"),
    [
        ({}, 8 * 150_000),
        ({"audio": False}, 8 * 100_000),
        ({"model": "fal-ai/veo3.1", "resolution": "4k", "seconds": 4}, 4 * 600_000),
        ({"model": KLING, "seconds": 10}, 10 * 70_000),
        ({"model": "bytedance/seedance-2.0/text-to-video"}, 5 * 303_400),
        ({"model": "somebody/else/fast", "extra": {"duration": "5", "fps": 24}}, None),
    ],
)
def test_listed_apps_are_priced_and_all_others_go(fields: dict[str, Any], cost: int | None) -> None:
    assert asked(**fields).cost_micros == cost


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"seconds": 5}, InvalidRequestError),
        ({"model": KLING, "audio": True}, InvalidRequestError),
        ({"model": KLING, "resolution": "1080p"}, InvalidRequestError),
        ({"model": "fal-ai/veo3.1/image-to-video"}, InvalidRequestError),
        ({"extra": {"durationSeconds": 4}}, InvalidRequestError),
        ({"images": (InputImage(key="a"),)}, InvalidRequestError),
        # Nobody knows what they call it, and they ignore what they do not know.
        ({"model": "somebody/else", "seconds": 5}, InvalidRequestError),
        ({"model": "somebody/else", "seed": 5}, InvalidRequestError),
        ({"model": "somebody/else", "aspect_ratio": "16:9"}, InvalidRequestError),
        ({"model": "somebody"}, UnknownModelError),
    ],
)
def test_what_an_app_would_ignore_or_refuse_is_refused(
    fields: dict[str, Any], kind: type[VidgenError]
) -> None:
    with pytest.raises(kind):
        asked(**fields)
