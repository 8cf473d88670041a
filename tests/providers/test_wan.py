"""DashScope's own ways: an async header, regions, words for errors, UNKNOWN for what is gone."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from tests.providers.formats.wan import FORMATS
from tests.providers.said import saying
from vidgen import catalog
from vidgen.catalog import Endpoints
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
    ResultExpiredError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import InputImage, VideoRequest
from vidgen.providers.plain import Vendor
from vidgen.providers.protocol import Failed, Running, Succeeded
from vidgen.providers.registry import FindsRecent
from vidgen.providers.wan import kind_of, parse_task
from vidgen.testing.provider_wire import PROMPT, Wire, an_image

WIRE = pytest.mark.parametrize("wire", ["wan"], indirect=True)
VENDOR = Vendor(label="DashScope", base_url="https://ds.test/api/v1", variable="DASHSCOPE_BASE_URL")
# What each documented word means to a submit, and to a look.
CODES: dict[str, tuple[type[ProviderError], type[ProviderError]]] = {
    **dict.fromkeys(
        ("InvalidApiKey", "AccessDenied", "AccessDenied.Unpurchased", "Model.AccessDenied"),
        (AuthError, AuthError),
    ),
    **dict.fromkeys(
        ("Arrearage", "PrepaidBillOverdue", "PostpaidBillOverdue", "AllocationQuota.FreeTierOnly"),
        (QuotaExhaustedError, TransientError),
    ),
    **dict.fromkeys(
        (
            "Throttling",
            "Throttling.RateQuota",
            "Throttling.BurstRate",
            "Throttling.AllocationQuota",
        ),
        (RateLimitedError, RateLimitedError),
    ),
    **dict.fromkeys(
        ("DataInspectionFailed", "IPInfringementSuspect"), (ContentBlockedError, ProtocolError)
    ),
    "ModelNotFound": (ModelRetiredError, OperationLostError),
    **dict.fromkeys(
        ("InvalidParameter", "InvalidParameter.DataInspection", "InvalidURL.Timeout", "BadRequest"),
        (InputRejectedError, ProtocolError),
    ),
    **dict.fromkeys(
        ("InternalError", "InternalError.Algo", "SystemError", "ModelServiceFailed"),
        (SubmitUnknownError, TransientError),
    ),
    **dict.fromkeys(
        ("InternalError.Timeout", "RequestTimeOut"), (SubmitUnknownError, TransientError)
    ),
    "SomethingNew": (InputRejectedError, ProtocolError),
}


def quoted(**fields: Any) -> catalog.Quote:
    request = VideoRequest(provider="wan", prompt=PROMPT, **fields)
    return catalog.quote(
        request, today=date(2026, 11, 26), endpoints=Endpoints.of({}), allow_unknown_models=False
    )


def parsed(usage: Any = None, model: str = "wan3.0-video", **output: Any) -> Any:
    return parse_task(VENDOR, output, usage, model)


@pytest.mark.parametrize("status", [200, 400])
async def test_each_word_has_its_class_whatever_the_status(status: int) -> None:
    async with saying(FORMATS[0]) as dashscope_says:
        found = {}
        for code in CODES:
            body = {"code": code, "message": "no", "request_id": "1"}
            submit = await dashscope_says.submit(status, body)
            found[code] = (submit, await dashscope_says.look(status, body))

    assert found == CODES


def test_a_free_share_that_is_used_up_is_no_rate_limit() -> None:
    code = "Throttling.AllocationQuota"
    assert kind_of(code, "Free allocated quota exceeded.") is QuotaExhaustedError
    assert kind_of(code, "Allocated quota exceeded, please increase") is RateLimitedError


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("DataInspectionFailed", ContentBlockedError),
        ("IPInfringementSuspect", ContentBlockedError),
        ("InvalidParameter", InputRejectedError),
        ("InternalError.Timeout", GenerationFailedError),
        ("Throttling.RateQuota", GenerationFailedError),
        (None, GenerationFailedError),
    ],
)
def test_a_failed_task_is_judged_by_its_word(code: str | None, kind: type[ProviderError]) -> None:
    failed = parsed(task_status="FAILED", code=code, message=f"no {PROMPT}")

    assert (type(failed.error), failed.charged) == (kind, False)
    assert PROMPT not in failed.error.message


def test_each_status_has_its_meaning() -> None:
    for word in ("PENDING", "RUNNING", "SUSPENDED", "DREAMING"):
        assert parsed(task_status=word) == Running()
    cancelled = parsed(task_status="CANCELED")
    assert (type(cancelled.error), cancelled.charged) == (GenerationFailedError, False)
    assert isinstance(parsed(task_status="SUCCEEDED"), Failed)


@pytest.mark.parametrize("status", ["FAILED", "SUCCEEDED"])
def test_seconds_without_a_video_are_what_that_cost(status: str) -> None:
    for seconds, charged, cost in ((0, False, 0), (5, True, 500_000), ("x", False, None)):
        usage = {"duration": seconds, "SR": 720}
        verdict = parse_task(VENDOR, {"task_status": status}, usage, "wan3.0-video")

        assert isinstance(verdict, Failed)
        assert (verdict.charged, verdict.cost_micros) == (charged, cost)


@WIRE
async def test_a_task_that_nobody_knows_any_more_is_expired_and_maybe_charged(wire: Wire) -> None:
    gone = await wire.poll(replace(await wire.submit(), id="of-yesterday"))

    assert isinstance(gone, Failed)
    assert (type(gone.error), gone.charged) == (ResultExpiredError, True)


@WIRE
async def test_a_submit_asks_for_a_task_and_a_look_does_not(wire: Wire) -> None:
    await wire.poll(await wire.submit())

    submit, look = wire.simulator.received
    assert submit.headers["x-dashscope-async"] == "enable"
    assert "x-dashscope-async" not in look.headers


@WIRE
async def test_a_video_costs_the_seconds_that_were_counted_and_is_kept_for_a_day(
    wire: Wire,
) -> None:
    progress = await wire.poll(await wire.submit())

    assert isinstance(progress, Succeeded)
    assert progress.cost_micros == 800_000 == wire.simulator.bill[0].cost_micros
    assert progress.expires_at is not None
    assert timedelta(hours=23) < progress.expires_at - datetime.now(UTC) < timedelta(hours=25)


@pytest.mark.parametrize(
    ("usage", "model", "micros"),
    [
        ({"duration": 5, "SR": 1080}, "wan3.0-video", 1_000_000),
        ({"duration": 5.5, "SR": "720"}, "wan3.0-video-prime", 770_000),
        ({"duration": 5, "SR": 1080}, "wan2.7-t2v", 750_000),
        ({"duration": 5, "SR": 999}, "wan3.0-video", None),
        ({"duration": "inf", "SR": 720}, "wan3.0-video", None),
        ({"duration": 5, "SR": 720}, "wan9", None),
        ({}, "wan3.0-video", None),
        ([], "wan3.0-video", None),
    ],
)
def test_only_a_sane_cost_is_believed(usage: Any, model: str, micros: int | None) -> None:
    progress = parsed(usage, model, task_status="SUCCEEDED", video_url="https://oss/x")

    assert progress.cost_micros == micros


@WIRE
async def test_only_a_task_that_still_waits_is_cancelled(wire: Wire) -> None:
    finished = await wire.submit()
    wire.simulator.generation_s = 600
    waiting, running = await wire.submit(), await wire.submit()
    wire.simulator.generations[running.id].created_at -= 300

    answers = [
        await wire.provider.cancel(each, wire.credential)
        for each in (waiting, running, finished, waiting)
    ]

    assert answers == [True, False, False, None]
    assert isinstance(await wire.poll(finished), Succeeded)


@WIRE
async def test_a_cancel_with_a_wrong_key_is_no_answer(wire: Wire) -> None:
    operation = await wire.submit()

    with pytest.raises(AuthError):
        await wire.provider.cancel(operation, replace(wire.credential, secret="wrong"))


@WIRE
async def test_the_list_proves_nothing_about_a_lost_receipt(wire: Wire) -> None:
    assert not isinstance(wire.provider, FindsRecent)


@WIRE
async def test_with_a_frame_no_ratio_is_told_and_with_references_none_of_ours(wire: Wire) -> None:
    await wire.submit(an_image(), an_image("last_frame"))
    await wire.submit(an_image("reference"), aspect_ratio=None)

    sent: list[Any] = [request.body for request in wire.simulator.of("submit")]
    assert "ratio" not in sent[0]["parameters"]
    assert [item["type"] for item in sent[1]["input"]["media"]] == ["reference_image"]


def test_prices_are_those_of_the_second() -> None:
    assert quoted(seconds=10).cost_micros == 1_000_000
    assert quoted(seconds=10, resolution="480p").cost_micros == 500_000
    assert quoted(model="wan2.7-t2v", seconds=10, resolution="1080p").cost_micros == 1_500_000


def test_what_dashscope_would_cut_or_ignore_is_refused() -> None:
    frame = InputImage(data=an_image().data)
    for fields in (
        {"negative_prompt": "rain"},
        {"model": "wan2.7-t2v", "negative_prompt": "r" * 501},
        {"model": "wan2.7-t2v", "images": (frame,)},
        {"model": "wan2.7-t2v", "resolution": "480p"},
        {"model": "wan2.7-i2v"},
        {"model": "wan2.7-i2v", "images": (frame,), "aspect_ratio": "16:9"},
        {"images": (frame,), "aspect_ratio": "9:16"},
        {"images": (frame, InputImage(role="reference", key="a.png"))},
        {"seed": 2**31},
        {"seconds": 31},
        {"extra": {"promptextend": False}},
    ):
        with pytest.raises(InvalidRequestError):
            quoted(**fields)
