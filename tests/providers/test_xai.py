"""What only xAI does."""

from datetime import date
from typing import Any

import pytest

from tests.providers.formats.all import FORMATS
from vidgen.catalog import Endpoints, Quote, quote
from vidgen.catalog.xai import NEWER
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    InvalidRequestError,
    ProtocolError,
    ResultExpiredError,
)
from vidgen.job import InputImage, VideoRequest
from vidgen.providers.protocol import Credential, Failed, Running, Succeeded
from vidgen.providers.registry import ProvidersConfig
from vidgen.providers.xai import build_body, parse_video
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.testing.provider_wire import CLIP, Wire, an_image, finished_asset, opened


@pytest.fixture
async def xai(simulators: SimulatorServer, config: ProvidersConfig) -> Any:
    async with opened(FORMATS["xai"], simulators, config) as wire:
        yield wire


def ticks(count: int) -> dict[str, int]:
    return {"cost_in_usd_ticks": count}


def read(**video: Any) -> Any:
    return parse_video(video, {})


async def test_the_cost_is_what_xai_says(xai: Wire) -> None:
    progress = await xai.poll(await xai.submit())

    assert isinstance(progress, Succeeded)
    assert progress.cost_micros == 8 * 70_000


async def test_a_video_on_its_way_tells_how_far_it_is(xai: Wire) -> None:
    xai.simulator.generation_s = 60
    operation = await xai.submit()
    xai.script(Rule(deed="poll", outcome="stuck", argument="37"))
    xai.simulator.generations[operation.id].created_at -= 50

    assert await xai.poll(operation) == Running(percent=37)


async def test_a_word_that_nobody_knows_is_running(xai: Wire) -> None:
    operation = await xai.submit()
    xai.script(Rule(deed="poll", outcome="status", argument="dreaming"))

    assert isinstance(await xai.poll(operation), Running)


async def test_a_status_may_be_missing_beside_an_address() -> None:
    progress = read(video={"url": "https://vidgen.x.ai/1.mp4"})

    assert isinstance(progress, Succeeded)
    with pytest.raises(ProtocolError):
        read(progress=4)


@pytest.mark.parametrize(
    ("said", "kind", "charged", "cost"),
    [
        ({"error": {"code": "internal_error"}, "video": {"duration": 0}}, "failed", False, None),
        ({"error": {"code": "internal_error"}}, "failed", True, None),
        ({"usage": ticks(0)}, "failed", False, 0),
        ({"usage": ticks(700_000_000), "video": {"duration": 0}}, "failed", True, 70_000),
        ({"error": {"code": "invalid_argument"}, "video": {"duration": 0}}, "input", False, None),
        ({"error": {"message": "blocked by moderation"}}, "blocked", True, None),
        ({"error": {"message": "moderation"}, "usage": ticks(0)}, "blocked", True, None),
        ({"error": {"message": "moderation"}, "usage": ticks(50_000)}, "blocked", True, 5),
    ],
)
def test_a_failure_is_charged_unless_the_answer_says_otherwise(
    said: dict[str, Any], kind: str, charged: bool, cost: int | None
) -> None:
    progress = read(status="failed", **said)

    kinds = {
        "failed": GenerationFailedError,
        "input": InputRejectedError,
        "blocked": ContentBlockedError,
    }
    assert isinstance(progress, Failed)
    assert (type(progress.error), progress.charged) == (kinds[kind], charged)
    assert progress.cost_micros == cost


def test_a_video_that_moderation_keeps_back_is_blocked_and_paid() -> None:
    progress = read(status="done", video={"url": "", "respect_moderation": False})

    assert isinstance(progress, Failed)
    assert isinstance(progress.error, ContentBlockedError)
    assert progress.charged


def test_what_is_over_without_a_video_is_no_success() -> None:
    done, expired = read(status="done"), read(status="expired")

    assert isinstance(done, Failed)
    assert isinstance(done.error, GenerationFailedError)
    assert isinstance(expired, Failed)
    assert isinstance(expired.error, ResultExpiredError)


async def test_images_go_by_their_roles(xai: Wire) -> None:
    first, last = an_image(), an_image("last_frame")
    references = [an_image("reference"), an_image("reference")]

    between = build_body(xai.submission(first, last))
    styled = build_body(xai.submission(*references))

    assert {"image", "last_frame"} <= between.keys()
    assert isinstance(styled["reference_images"], list)
    assert len(styled["reference_images"]) == 2


async def test_silence_is_said_and_sound_is_not(xai: Wire) -> None:
    assert build_body(xai.submission(audio=False))["generate_audio"] is False
    assert "generate_audio" not in build_body(xai.submission(audio=True))


async def test_a_key_that_was_blocked_is_no_key(xai: Wire) -> None:
    blocked = Credential(id="server", secret="blocked")

    with pytest.raises(AuthError, match="api_key_blocked"):
        await xai.provider.accepts("grok-imagine-video", blocked)


async def test_there_is_no_cancel(xai: Wire) -> None:
    assert await xai.provider.cancel(await xai.submit(), xai.credential) is False


async def test_the_clip_is_fetched_from_where_the_answer_says(xai: Wire) -> None:
    operation, asset = await finished_asset(xai)

    assert asset.uri.startswith(xai.simulator.origin)
    assert await xai.download(operation, asset) == CLIP


def asked(**fields: Any) -> Quote:
    request = VideoRequest(provider="xai", **({"prompt": "a kite"} | fields))
    endpoints = Endpoints.of({"XAI_API_KEY": "k"})
    return quote(request, today=date(2026, 11, 26), endpoints=endpoints, allow_unknown_models=False)


def test_defaults_are_filled_in_and_priced() -> None:
    found = asked()

    assert found.request == VideoRequest(
        provider="xai",
        prompt="a kite",
        model="grok-imagine-video",
        seconds=8,
        aspect_ratio="16:9",
        resolution="480p",
        audio=True,
    )
    assert found.cost_micros == 8 * 50_000
    assert asked(model=NEWER, size="1920x1080", seconds=15).cost_micros == 15 * 250_000


@pytest.mark.parametrize(
    "fields",
    [
        {"seconds": 16},
        {"seed": 1},
        {"negative_prompt": "rain"},
        {"audio": False},
        {"resolution": "1080p"},
        {"prompt": "x" * 4097},
        {"extra": {"fps": 30}},
        {"extra": {"duration": 15}},
        {"aspect_ratio": "16:9", "images": (InputImage(key="a"),)},
        {"images": (InputImage(key="a"), InputImage(role="last_frame", key="b"))},
        {"images": tuple(InputImage(role="reference", key="a") for _ in range(8))},
        {
            "model": NEWER,
            "resolution": "1080p",
            "images": (InputImage(role="reference", key="a"),),
        },
    ],
)
def test_what_xai_would_ignore_or_refuse_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        asked(**fields)
