"""Ark's own ways: words for errors, tokens for money, a list that is asked by name."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.providers.formats.seedance import FORMATS
from tests.providers.said import saying
from vidgen import catalog
from vidgen.catalog import Endpoints
from vidgen.catalog.seedance import micros_per_million
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    InvalidRequestError,
    ModelRetiredError,
    OperationLostError,
    ProtocolError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitedError,
    TransientError,
)
from vidgen.job import ImageRole, InputImage, VideoRequest
from vidgen.providers.plain import Vendor
from vidgen.providers.protocol import Failed, Running, Succeeded
from vidgen.providers.registry import FindsRecent, ListsVideos
from vidgen.providers.seedance import PAGE_LENGTH, kind_of, parse_task
from vidgen.simulator.control import Rule
from vidgen.testing.provider_wire import PROMPT, Wire, an_image

WIRE = pytest.mark.parametrize("wire", ["seedance"], indirect=True)
VENDOR = Vendor(label="Ark", base_url="https://ark.test/api/v3", variable="ARK_BASE_URL")
MODEL = "dreamina-seedance-2-0-260128"
BLOCKED = (
    "InputTextSensitiveContentDetected",
    "InputImageSensitiveContentDetected.PrivacyInformation",
    "InputVideoSensitiveContentDetected",
    "InputAudioSensitiveContentDetected",
    "OutputTextSensitiveContentDetected",
    "OutputImageSensitiveContentDetected",
    "OutputVideoSensitiveContentDetected.PolicyViolation",
    "OutputAudioSensitiveContentDetected",
    "SensitiveContentDetected.SevereViolation",
    "InputTextRiskDetection",
    "InputMediaMayContainRealPerson",
)
# What each documented word means to a submit, and to a look.
CODES: dict[str, tuple[type[ProviderError], type[ProviderError]]] = {
    **dict.fromkeys(
        ("AuthenticationError", "AccessDenied", "ModelNotOpen", "ServiceNotOpen"),
        (AuthError, AuthError),
    ),
    **dict.fromkeys(
        ("AccountOverdueError", "ServiceOverdue", "SetLimitExceeded", "QuotaExceeded"),
        (QuotaExhaustedError, TransientError),
    ),
    "OperationDenied.ServiceOverdue": (QuotaExhaustedError, TransientError),
    **dict.fromkeys(
        (
            "RateLimitExceeded",
            "RateLimitExceeded.EndpointRPMExceeded",
            "RateLimitExceeded.EndpointTPMExceeded",
            "ModelAccountRpmRateLimitExceeded",
            "ModelAccountTpmRateLimitExceeded",
            "RequestBurstTooFast",
            "ServerOverloaded",
            "ModelLoadingError",
        ),
        (RateLimitedError, RateLimitedError),
    ),
    **dict.fromkeys(
        ("ServiceUnavailable", "ContentSecurityDetectionError"), (TransientError, TransientError)
    ),
    **dict.fromkeys(
        ("InvalidEndpointOrModel.NotFound", "InvalidEndpoint.ClosedEndpoint", "UnsupportedModel"),
        (ModelRetiredError, OperationLostError),
    ),
    **dict.fromkeys(
        ("MissingParameter", "InvalidParameter.TaskTypeConstraint", "InvalidImageURL.EmptyURL"),
        (InputRejectedError, ProtocolError),
    ),
    **dict.fromkeys(BLOCKED, (ContentBlockedError, ProtocolError)),
    "SomethingNew": (InputRejectedError, ProtocolError),
}


def quoted(**fields: Any) -> catalog.Quote:
    request = VideoRequest(provider="seedance", prompt=PROMPT, **fields)
    return catalog.quote(
        request, today=date(2026, 11, 26), endpoints=Endpoints.of({}), allow_unknown_models=False
    )


def parsed(model: str = MODEL, **task: Any) -> Any:
    return parse_task(VENDOR, task, model)


@pytest.mark.parametrize("status", [200, 400])
async def test_each_word_has_its_class_whatever_the_status(status: int) -> None:
    async with saying(FORMATS[0]) as ark_says:
        found = {}
        for code in CODES:
            body = {"error": {"code": code, "message": "no"}}
            submit = await ark_says.submit(status, body)
            found[code] = (submit, await ark_says.look(status, body))

    assert found == CODES


def test_a_full_queue_is_no_empty_purse() -> None:
    assert kind_of("QuotaExceeded", "too many requests in the queue") is RateLimitedError
    assert kind_of("QuotaExceeded", "the free trial is used up") is QuotaExhaustedError


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("OutputVideoSensitiveContentDetected.PolicyViolation", ContentBlockedError),
        ("InvalidParameter", InputRejectedError),
        ("InternalServiceError", GenerationFailedError),
        ("ServerOverloaded", GenerationFailedError),
        ("SomethingNew", GenerationFailedError),
        (None, GenerationFailedError),
    ],
)
def test_a_failed_task_is_judged_by_its_word(code: str | None, kind: type[ProviderError]) -> None:
    failed = parsed(status="failed", error={"code": code, "message": f"no {PROMPT}"})

    assert (type(failed.error), failed.charged) == (kind, False)
    assert PROMPT not in failed.error.message


def test_each_status_has_its_meaning() -> None:
    for word in ("queued", "running", "dreaming"):
        assert parsed(status=word) == Running()
    for word in ("cancelled", "expired"):
        ended = parsed(status=word)
        assert (type(ended.error), ended.charged) == (GenerationFailedError, False)
    assert isinstance(parsed(status="succeeded", content={}), Failed)


@pytest.mark.parametrize("status", ["failed", "succeeded"])
def test_tokens_without_a_video_are_what_that_cost(status: str) -> None:
    for tokens, charged, cost in ((0, False, 0), (108_900, True, 762_300), ("x", False, None)):
        usage = {"completion_tokens": tokens}
        verdict = parsed(status=status, content={}, resolution="720p", usage=usage)

        assert isinstance(verdict, Failed)
        assert (verdict.charged, verdict.cost_micros) == (charged, cost)


@WIRE
async def test_a_video_costs_its_tokens_and_is_kept_for_a_day(wire: Wire) -> None:
    progress = await wire.poll(await wire.submit())

    assert isinstance(progress, Succeeded)
    assert progress.cost_micros == 1_209_600 == wire.simulator.bill[0].cost_micros
    assert progress.expires_at is not None
    assert timedelta(hours=23) < progress.expires_at - datetime.now(UTC) < timedelta(hours=25)


@pytest.mark.parametrize(
    ("model", "resolution", "tokens", "audio", "micros"),
    [
        (MODEL, "720p", 108_000, True, 756_000),
        (MODEL, "4k", 972_000, True, 3_888_000),
        ("seedance-1-5-pro-251215", "720p", 100_000, True, 240_000),
        ("seedance-1-5-pro-251215", "720p", 100_000, False, 120_000),
        ("doubao-seedance-2-0-260128", "720p", 100_000, True, 657_143),
        (MODEL, "8k", 1000, True, None),
        ("ep-2026-own", "720p", 1000, True, None),
        (MODEL, "720p", "nan", True, None),
        (MODEL, "720p", -5, True, None),
        (MODEL, "720p", 10**12, True, None),
        (MODEL, "720p", None, True, None),
    ],
)
def test_tokens_are_priced_by_model_resolution_and_sound(
    model: str, resolution: str, tokens: Any, audio: bool, micros: int | None
) -> None:
    progress = parsed(
        model,
        status="succeeded",
        content={"video_url": "https://cdn/x"},
        usage={"completion_tokens": tokens},
        resolution=resolution,
        generate_audio=audio,
    )

    assert progress.cost_micros == micros


def test_without_a_date_in_the_address_the_end_of_the_task_counts() -> None:
    content = {"video_url": "https://cdn/x"}

    progress = parsed(status="succeeded", content=content, updated_at=1_790_000_000)
    signed = parsed(
        status="succeeded",
        content={"video_url": "https://c/x?X-Tos-Date=20260101T000000Z&X-Tos-Expires=86400"},
    )

    assert progress.expires_at == datetime.fromtimestamp(1_790_000_000 + 86_400, UTC)
    assert signed.expires_at == datetime(2026, 1, 2, tzinfo=UTC)


@WIRE
async def test_only_a_queued_task_is_cancelled_and_a_finished_one_is_never_deleted(
    wire: Wire,
) -> None:
    finished = await wire.submit()
    wire.simulator.generation_s = 600
    queued, running = await wire.submit(), await wire.submit()
    wire.simulator.generations[running.id].created_at -= 300

    answers = [await wire.provider.cancel(each, wire.credential) for each in (queued, running)]
    assert answers == [True, False]
    assert await wire.provider.cancel(finished, wire.credential) is False
    assert await wire.provider.cancel(queued, wire.credential) is None
    assert isinstance(await wire.poll(finished), Succeeded)
    assert wire.simulator.counts["cancel"] == 1


@WIRE
async def test_a_task_that_begins_between_look_and_cancel_goes_on(wire: Wire) -> None:
    wire.simulator.generation_s = 600
    operation = await wire.submit()
    wire.script(Rule(deed="cancel", outcome="409"))

    assert await wire.provider.cancel(operation, wire.credential) is False


@WIRE
async def test_the_list_is_asked_for_many_tasks_by_their_names(wire: Wire) -> None:
    lister = wire.provider
    assert isinstance(lister, ListsVideos)
    operations = [await wire.submit() for _ in range(3)]
    others = [replace(operations[0], id=f"cgt-{number}") for number in range(PAGE_LENGTH)]
    await wire.submit()

    overview = await lister.look_through([*operations, *others], wire.credential, 5)

    assert overview.found.keys() == {operation.id for operation in operations}
    assert wire.simulator.counts["list"] == overview.pages == 2
    assert (await lister.look_through([], wire.credential, 5)).found == {}


@WIRE
async def test_the_list_proves_nothing_about_a_lost_receipt(wire: Wire) -> None:
    assert not isinstance(wire.provider, FindsRecent)


@WIRE
async def test_frames_and_references_go_along_by_their_role(wire: Wire) -> None:
    pairs: tuple[tuple[ImageRole, ImageRole], ...] = (
        ("first_frame", "last_frame"),
        ("reference", "reference"),
    )
    for roles in pairs:
        await wire.submit(*(an_image(role) for role in roles), aspect_ratio="adaptive")

    sent: list[Any] = [request.body for request in wire.simulator.of("submit")]
    assert [[item["role"] for item in body["content"][1:]] for body in sent] == [
        ["first_frame", "last_frame"],
        ["reference_image", "reference_image"],
    ]


def test_a_second_is_priced_by_what_ark_makes_of_the_resolution() -> None:
    assert quoted(resolution="720p", seconds=10).cost_micros == 1_512_000
    assert quoted(resolution="4k", seconds=5).cost_micros == 3_888_000
    older = "seedance-1-5-pro-251215"
    loud, silent = quoted(model=older, seconds=5), quoted(model=older, seconds=5, audio=False)
    assert (loud.cost_micros, silent.cost_micros) == (259_200, 129_600)
    assert micros_per_million("doubao-seedance-2-5-260628", "1080p", audio=True) == 11_000_000


def test_what_ark_would_ignore_or_refuse_is_refused() -> None:
    reference = InputImage(role="reference", key="a.png")
    last = InputImage(role="last_frame", key="a.png")
    for fields in (
        {"negative_prompt": "rain"},
        {"extra": {"service_tier": "flex"}},
        {"extra": {"camerafixed": True}},
        {"model": "dreamina-seedance-2-5-260628", "seed": 7},
        {"model": "dreamina-seedance-2-0-fast-260128", "resolution": "1080p"},
        {"model": "seedance-1-5-pro-251215", "images": (reference,)},
        {"images": (last,)},
        {"seed": 2**31},
        {"seconds": 16},
    ):
        with pytest.raises(InvalidRequestError):
            quoted(**fields)
