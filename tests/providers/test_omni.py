"""Omni's own ways: a receipt that may be the result, and a video inside an answer."""

import base64
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from tests.providers.formats.all import FORMATS
from tests.providers.formats.omni import BUCKET
from vidgen.catalog import Endpoints, Quote, quote, vendor
from vidgen.errors import (
    ContentBlockedError,
    GenerationFailedError,
    InvalidRequestError,
    ModelRetiredError,
    NotReadyError,
    OperationLostError,
    ResultExpiredError,
)
from vidgen.job import InputImage, VideoRequest
from vidgen.providers.omni import build_body, parse_interaction
from vidgen.providers.protocol import Credential, Failed, Running, Succeeded
from vidgen.providers.registry import ProvidersConfig
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.testing.provider_wire import CLIP, Wire, an_image, finished_asset, opened

MODEL = "gemini-omni-1.2-flash"


@pytest.fixture
async def omni(simulators: SimulatorServer, config: ProvidersConfig) -> AsyncIterator[Wire]:
    async with opened(FORMATS["omni-gemini"], simulators, config) as wire:
        yield wire


@pytest.fixture
async def at_once(simulators: SimulatorServer, config: ProvidersConfig) -> AsyncIterator[Wire]:
    async with opened(FORMATS["omni-gemini-at-once"], simulators, config) as wire:
        yield wire


def read(**interaction: Any) -> Any:
    return parse_interaction(interaction, MODEL, "gemini")


async def test_a_server_that_does_not_wait_answers_with_the_result(at_once: Wire) -> None:
    receipt = await at_once.provider.submit(at_once.submission(), at_once.credential)

    assert isinstance(receipt.progress, Succeeded)
    uri = receipt.progress.assets[0].uri
    assert receipt.operation.extra == {"api": "gemini", "video_uri": uri}
    assert await at_once.download(receipt.operation, receipt.progress.assets[0]) == CLIP


async def test_the_address_of_the_receipt_is_kept_though_a_look_has_none(at_once: Wire) -> None:
    operation = await at_once.submit()

    progress = await at_once.poll(operation)

    assert isinstance(progress, Succeeded)
    assert progress.assets[0].uri == operation.extra["video_uri"]


async def test_a_receipt_with_the_video_inside_is_not_held_in_memory(at_once: Wire) -> None:
    at_once.script(Rule(deed="content", outcome="size", argument="3M"))
    submission = at_once.submission(model="gemini-omni-1.1-flash")
    at_once.simulator.clip = CLIP * 10
    provider: Any = at_once.provider
    answer = await provider._google.call(
        "submit",
        f"{at_once.simulator.gemini_url}/interactions",
        "gemini",
        at_once.credential,
        post=b'{"model": "gemini-omni-1.1-flash", "input": "a kite"}',
        elide=True,
    )

    assert submission.request.model
    progress = parse_interaction(answer.json(), MODEL, "gemini")
    assert isinstance(progress, Succeeded)
    assert progress.assets[0].uri == "inline:0"
    assert len(answer.body) < 10_000


async def test_the_cost_is_that_of_the_tokens(omni: Wire) -> None:
    progress = await omni.poll(await omni.submit())

    assert isinstance(progress, Succeeded)
    assert progress.cost_micros == round(8 * 5792 * 17.5)


async def test_a_file_that_is_still_prepared_is_asked_for_again(at_once: Wire) -> None:
    operation, asset = await finished_asset(at_once)
    at_once.script(Rule(deed="content", outcome="400"), Rule(deed="list", outcome="hidden"))

    with pytest.raises(NotReadyError):
        await at_once.download(operation, asset)


async def test_a_file_that_another_project_has_is_gone(at_once: Wire) -> None:
    operation, asset = await finished_asset(at_once)
    at_once.script(Rule(deed="content", outcome="403"))

    with pytest.raises(ResultExpiredError):
        await at_once.download(operation, asset)


def test_only_the_video_counts_among_what_is_inside() -> None:
    image = {"type": "image", "data": "AAAA"}
    progress = read(
        status="completed",
        steps=[
            {"type": "user_input", "content": [image, image]},
            {"type": "model_output", "content": [{"type": "text", "text": "here"}]},
            {"type": "model_output", "content": [image, {"type": "video", "data": "BBBB"}]},
        ],
    )

    assert isinstance(progress, Succeeded)
    assert progress.assets[0].uri == "inline:3"


async def test_the_right_video_is_read_out_of_an_answer_with_pictures(omni: Wire) -> None:
    operation, asset = await finished_asset(omni)

    assert asset.uri == "inline:0"
    assert await omni.download(operation, asset) == CLIP


@pytest.mark.parametrize("status", ["queued", "in_progress", "idle", "dreaming"])
def test_a_word_that_is_no_end_is_running(status: str) -> None:
    assert read(status=status) == Running()


@pytest.mark.parametrize(
    "status", ["failed", "incomplete", "budget_exceeded", "requires_action", "cancelled"]
)
def test_every_other_end_is_a_failure(status: str) -> None:
    progress = read(status=status, usage={"total_output_tokens": 0})

    assert isinstance(progress, Failed)
    assert isinstance(progress.error, GenerationFailedError)
    assert not progress.charged


def test_a_failure_is_charged_by_its_tokens_and_without_a_word_of_them() -> None:
    spent = {"output_tokens_by_modality": [{"modality": "video", "tokens": 5792}]}

    told, untold = read(status="failed", usage=spent), read(status="failed")
    assert isinstance(told, Failed)
    assert isinstance(untold, Failed)
    assert (told.charged, told.cost_micros) == (True, 5792 * 12)
    assert (untold.charged, untold.cost_micros) == (True, None)


@pytest.mark.parametrize(
    "said",
    [
        {"errors": [{"code": "https://ai.google.dev/errors/content_blocked", "message": "no"}]},
        {"errors": [{"message": "The prompt was blocked by our safety filters."}]},
        {"steps": [{"type": "model_output", "error": {"code": 3, "message": "policy"}}]},
        {"errors": [{"message": "Support codes: 58061214"}]},
    ],
)
def test_blocked_content_is_told_apart_from_a_failure(said: dict[str, Any]) -> None:
    for status in ("failed", "completed"):
        progress = read(status=status, **said)

        assert isinstance(progress, Failed)
        assert isinstance(progress.error, ContentBlockedError)


async def test_a_cancel_tells_what_came_of_it(omni: Wire) -> None:
    over = await omni.submit()
    omni.simulator.generation_s = 60
    running = await omni.submit()

    assert await omni.provider.cancel(over, omni.credential) is False
    assert await omni.provider.cancel(running, omni.credential) is True
    assert await omni.provider.cancel(running, omni.credential) is None


async def test_an_id_that_leads_elsewhere_is_not_asked_for(omni: Wire) -> None:
    operation = replace(await omni.submit(), id="../models")

    with pytest.raises(OperationLostError):
        await omni.poll(operation)


async def test_images_say_what_is_made_of_them(omni: Wire) -> None:
    first = build_body(omni.submission(an_image()), "gemini", None)
    styled = build_body(omni.submission(an_image("reference"), seed=7), "vertex", None)

    assert first["generation_config"] == {"video_config": {"task": "image_to_video"}}
    assert styled["generation_config"] == {
        "video_config": {"task": "reference_to_video"},
        "seed": 7,
    }


async def test_a_user_s_project_pays_and_gets_the_video_inside(
    simulators: SimulatorServer, config: ProvidersConfig
) -> None:
    async with opened(FORMATS["omni-vertex-gcs"], simulators, config) as wire:
        mine = Credential(id="k1", secret=wire.credential.secret, project="mine")
        receipt = await wire.provider.submit(wire.submission(), mine)

        progress = await wire.provider.poll(receipt.operation, mine)

    assert receipt.operation.extra["project"] == "mine"
    body = wire.simulator.of("submit")[-1].body
    assert isinstance(body, dict)
    assert BUCKET not in str(body)
    assert "/projects/mine/locations/global/interactions" in wire.simulator.received[-1].path
    assert isinstance(progress, Succeeded)
    assert progress.assets[0].uri == "inline:0"


async def test_the_scanner_takes_base64_of_any_length(omni: Wire) -> None:
    for size in (1, 2, 3, 20_000):
        omni.simulator.clip = b"x" * size
        operation, asset = await finished_asset(omni)

        assert await omni.download(operation, asset) == b"x" * size
        assert base64.b64encode(b"x" * size)


def asked(configured: dict[str, str], **fields: Any) -> Quote:
    request = VideoRequest(provider="omni", **({"prompt": "a kite"} | fields))
    day = fields.pop("today", date(2026, 11, 26))
    return quote(request, today=day, endpoints=Endpoints.of(configured), allow_unknown_models=False)


GEMINI = {"GEMINI_API_KEY": "k"}
VERTEX = {"GOOGLE_CLOUD_PROJECT_ID": "p"}


def test_the_newest_model_goes_where_there_is_a_way() -> None:
    omni = vendor("omni")

    assert omni.interface_of(MODEL, Endpoints.of(GEMINI)).name == "gemini"
    assert omni.interface_of(MODEL, Endpoints.of(VERTEX)).name == "vertex"
    assert omni.interface_of(MODEL, Endpoints.of(GEMINI | VERTEX)).name == "vertex"
    assert omni.interface_of("gemini-omni-1.1-flash", Endpoints.of(VERTEX)).name == "gemini"


def test_vertex_ai_has_it_in_one_place_and_one_version() -> None:
    (vertex, _) = vendor("omni").interfaces
    elsewhere = Endpoints.of(VERTEX | {"GOOGLE_CLOUD_LOCATION": "us-central1"})

    assert vertex.address(elsewhere) == "https://aiplatform.googleapis.com/v1beta1"


def test_defaults_are_filled_in_and_priced() -> None:
    assert asked(VERTEX).cost_micros == 8 * 69_504
    assert asked(VERTEX, seconds=15, size="3840x2160").cost_micros == 15 * 208_512


def test_a_model_is_refused_from_the_day_it_retires() -> None:
    old = VideoRequest(provider="omni", prompt="a kite", model="gemini-omni-1.1-flash")
    endpoints = Endpoints.of(GEMINI)

    quote(old, today=date(2026, 12, 2), endpoints=endpoints, allow_unknown_models=False)
    with pytest.raises(ModelRetiredError, match="2026-12-03"):
        quote(old, today=date(2026, 12, 3), endpoints=endpoints, allow_unknown_models=False)


@pytest.mark.parametrize(
    "fields",
    [
        {"seconds": 2},
        {"seconds": 16},
        {"model": "gemini-omni-1.1-flash", "seconds": 11},
        {"model": "gemini-omni-1.1-flash", "seed": 1},
        {"negative_prompt": "rain"},
        {"audio": False},
        {"aspect_ratio": "1:1"},
        {"extra": {"temperature": 1}},
        {"extra": {"background": False}},
        {"images": (InputImage(key="a"), InputImage(role="last_frame", key="b"))},
    ],
)
def test_what_google_would_ignore_or_refuse_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        asked(GEMINI | VERTEX, **fields)
