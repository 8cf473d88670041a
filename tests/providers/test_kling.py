"""Kling's own ways: a token of a pair, two lists with our marks in them, units, words for codes."""

import base64
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import pytest

from tests.providers.formats.kling import FORMATS
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
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import InputImage, VideoRequest
from vidgen.providers import kling
from vidgen.providers.plain import Vendor
from vidgen.providers.protocol import (
    Credential,
    Failed,
    ImageBytes,
    Listing,
    Running,
    Submission,
    Succeeded,
)
from vidgen.providers.registry import FindsRecent, ListsVideos
from vidgen.simulator.control import Rule
from vidgen.simulator.faults import Refusal
from vidgen.simulator.kling import project_of
from vidgen.testing.provider_wire import KEY, PROMPT, Wire, an_image

WIRE = pytest.mark.parametrize("wire", ["kling"], indirect=True)
VENDOR = Vendor(label="Kling", base_url="https://kling.test/v1", variable="KLING_BASE_URL")
# What each documented code means to a submit, and to a look.
CODES: dict[int, tuple[type[ProviderError], type[ProviderError]]] = {
    **dict.fromkeys((1000, 1001, 1002, 1003, 1004, 1100, 1103, 1304), (AuthError, AuthError)),
    **dict.fromkeys((1101, 1102), (QuotaExhaustedError, TransientError)),
    **dict.fromkeys((1200, 1201, 1202), (InputRejectedError, ProtocolError)),
    1203: (ModelRetiredError, OperationLostError),
    **dict.fromkeys((1300, 1301), (ContentBlockedError, ProtocolError)),
    **dict.fromkeys((1302, 1303), (RateLimitedError, RateLimitedError)),
    5000: (SubmitUnknownError, TransientError),
    5001: (TransientError, TransientError),
    5002: (SubmitUnknownError, TransientError),
    7777: (InputRejectedError, ProtocolError),
}


def quoted(**fields: Any) -> catalog.Quote:
    request = VideoRequest(provider="kling", prompt=PROMPT, **fields)
    return catalog.quote(
        request, today=date(2026, 11, 26), endpoints=Endpoints.of({}), allow_unknown_models=False
    )


async def recent(wire: Wire, submission: Submission) -> Listing:
    finder = wire.provider
    assert isinstance(finder, FindsRecent)
    since = datetime.now(UTC) - timedelta(minutes=1)
    return await finder.find_recent(submission, since, wire.credential)


def failed(**task: Any) -> Failed:
    progress = kling.parse_task(VENDOR, {"task_status": "failed", **task})
    assert isinstance(progress, Failed)
    return progress


async def test_each_code_has_its_class_even_under_http_200() -> None:
    async with saying(FORMATS[0]) as kling_says:
        found = {}
        for code in CODES:
            body = {"code": code, "message": "no"}
            submit = await kling_says.submit(200, body)
            found[code] = (submit, await kling_says.look(200, body, subpath="text2video"))

    assert found == CODES


@WIRE
async def test_each_request_has_a_fresh_token_that_the_secret_has_signed(
    wire: Wire,
) -> None:
    wire.simulator.keys = frozenset({f"{KEY}:{KEY}"})
    operation = await wire.submit()
    assert isinstance(await wire.poll(operation), Succeeded)

    wrong = Credential(id="server", secret=f"{KEY}:another")
    with pytest.raises(AuthError):
        await wire.provider.poll(operation, wrong)
    sent = wire.simulator.received[0].headers["authorization"].removeprefix("Bearer ")
    head, claims, _ = (_decoded(part) for part in sent.split("."))
    assert head == {"alg": "HS256", "typ": "JWT"}
    assert claims.keys() == {"iss", "exp", "nbf"}
    assert claims["exp"] - claims["nbf"] == kling.TOKEN_S + kling.SKEW_S


def _decoded(part: str) -> Any:
    data = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    return orjson.loads(data) if data.startswith(b"{") else data


@WIRE
async def test_a_token_of_half_an_hour_ago_opens_nothing(wire: Wire) -> None:
    wire.simulator.keys = frozenset({"access:secret"})
    now = datetime.now(UTC)
    young = kling.token("access", "secret", now)
    old = kling.token("access", "secret", now - timedelta(minutes=31))
    early = kling.token("access", "secret", now + timedelta(minutes=2))

    assert project_of(wire.simulator, young) == ""
    codes = [project_of(wire.simulator, each) for each in (old, early)]
    assert [each.code for each in codes if isinstance(each, Refusal)] == ["1004", "1003"]


def test_a_gateway_s_key_without_a_colon_goes_along_as_it_is() -> None:
    assert kling.headers(Credential(id="server", secret="sk-relay")) == {
        "Authorization": "Bearer sk-relay"
    }
    assert kling.headers(Credential(id="server", secret="")) == {}


@WIRE
async def test_a_task_with_frames_is_made_and_followed_under_a_path_of_its_own(wire: Wire) -> None:
    first, last = an_image(), an_image("last_frame")

    operation = await wire.submit(first, last)

    assert operation.extra == {"subpath": "image2video"}
    assert isinstance(await wire.poll(operation), Succeeded)
    body = wire.simulator.of("submit")[-1].body
    assert isinstance(body, dict)
    assert body["image_tail"] == base64.b64encode(last.data).decode()
    assert "aspect_ratio" not in body  # the frame decides it
    elsewhere = replace(operation, extra={"subpath": "text2video"})
    with pytest.raises(OperationLostError):
        await wire.poll(elsewhere)


@WIRE
@pytest.mark.parametrize("extra", [{}, {"subpath": "../account"}, {"subpath": 7}])
async def test_an_operation_that_does_not_know_its_path_is_not_guessed_at(
    wire: Wire, extra: Any
) -> None:
    operation = replace(await wire.submit(), extra=extra)

    with pytest.raises(OperationLostError):
        await wire.poll(operation)
    assert wire.simulator.counts["poll"] == 0


@WIRE
async def test_an_image_that_kling_does_not_read_is_refused_before_it_is_sent(wire: Wire) -> None:
    webp = ImageBytes(role="first_frame", content_type="image/webp", data=b"RIFF")
    large = replace(an_image(), data=b"x" * (kling.MAX_IMAGE_BYTES + 1))

    for image in (webp, large):
        with pytest.raises(InputRejectedError, match="Kling takes"):
            await wire.submit(image)
    assert not wire.simulator.received


@WIRE
@pytest.mark.parametrize("images", [(), (an_image(),)], ids=["text", "image"])
async def test_a_task_whose_receipt_was_lost_is_found_by_our_mark(
    wire: Wire, images: tuple[ImageBytes, ...]
) -> None:
    await wire.submit()
    mine = wire.submission(*images)
    started = (await wire.provider.submit(mine, wire.credential)).operation
    await wire.submit(*images)

    listing = await recent(wire, replace(mine, images=()))

    assert listing.candidates == (started,)
    assert listing.doubtful == ()
    assert listing.trusted


@WIRE
async def test_another_attempt_of_the_same_job_is_not_this_one(wire: Wire) -> None:
    first = wire.submission()
    await wire.provider.submit(first, wire.credential)

    listing = await recent(wire, replace(first, attempt=2))

    assert listing.candidates == ()
    assert listing.trusted


@WIRE
async def test_an_empty_list_proves_something_at_kling_only(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not (await recent(wire, wire.submission())).trusted

    monkeypatch.setattr(kling, "ORIGINS", (wire.simulator.origin,))
    assert (await recent(wire, wire.submission())).trusted


@WIRE
async def test_a_task_without_a_mark_may_be_ours_at_a_gateway(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = await wire.submit()
    parameters = wire.simulator.generations[strange.id].wish.parameters
    assert isinstance(parameters, dict)
    del parameters["external_task_id"]

    listing = await recent(wire, wire.submission())
    assert [each.id for each in listing.doubtful] == [strange.id]

    monkeypatch.setattr(kling, "ORIGINS", (wire.simulator.origin,))
    assert (await recent(wire, wire.submission())).doubtful == ()


@WIRE
async def test_a_long_list_is_read_to_its_end_and_one_too_long_proves_nothing(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kling, "PAGE_LENGTH", 2)
    mine = wire.submission()
    started = (await wire.provider.submit(mine, wire.credential)).operation
    for _ in range(4):
        await wire.submit()

    assert (await recent(wire, mine)).candidates == (started,)
    monkeypatch.setattr(kling, "MAX_PAGES", 2)
    listing = await recent(wire, mine)
    assert (listing.candidates, listing.trusted) == ((), False)


@WIRE
async def test_a_list_that_cannot_be_had_proves_nothing(wire: Wire) -> None:
    for outcome, kind in (
        ("404", SubmitUnknownError),
        ("503", TransientError),
        ("not-json", ProtocolError),
        ("missing-id", ProtocolError),
    ):
        wire.script(Rule(deed="list", outcome=outcome, times=1))

        with pytest.raises(kind):
            await recent(wire, wire.submission())


@WIRE
async def test_the_lists_tell_of_many_tasks_at_once(wire: Wire) -> None:
    operations = [await wire.submit(), await wire.submit(an_image())]
    lister = wire.provider
    assert isinstance(lister, ListsVideos)
    unknown = replace(operations[0], id="unknown")

    overview = await lister.look_through([*operations, unknown], wire.credential, 4)

    assert overview.found.keys() == {operation.id for operation in operations}
    assert all(isinstance(progress, Succeeded) for progress in overview.found.values())
    assert wire.simulator.counts["list"] == overview.pages == 2


@WIRE
async def test_kling_tells_what_a_video_has_cost_and_keeps_it_for_a_month(wire: Wire) -> None:
    progress = await wire.poll(await wire.submit())

    assert isinstance(progress, Succeeded)
    assert progress.cost_micros == 8 * 84_000 == wire.simulator.bill[0].cost_micros
    assert progress.expires_at is not None
    assert timedelta(days=29) < progress.expires_at - datetime.now(UTC) < timedelta(days=31)


@WIRE
async def test_a_task_cannot_be_cancelled(wire: Wire) -> None:
    assert await wire.provider.cancel(await wire.submit(), wire.credential) is False


def test_a_failed_task_is_charged_if_units_were_taken_for_it() -> None:
    for said, charged, cost in (
        ({}, False, None),
        ({"final_unit_deduction": "0"}, False, 0),
        ({"final_unit_deduction": "2.5"}, True, 350_000),
        ({"final_unit_deduction": "1e99"}, False, None),
    ):
        verdict = failed(**said)
        assert (verdict.charged, verdict.cost_micros) == (charged, cost)


@pytest.mark.parametrize(
    "said",
    ["Failure to pass the risk control system", "Contains sensitive words", "触发风控", "内容审核"],
)
def test_blocked_content_is_told_by_words_that_are_not_passed_on(said: str) -> None:
    error = failed(task_status_msg=said).error

    assert type(error) is ContentBlockedError
    assert said not in error.message


def test_a_success_without_a_video_is_a_failure() -> None:
    results: tuple[Any, ...] = (None, {}, {"videos": []}, {"videos": [{"url": ""}, 7]})
    for result in results:
        progress = kling.parse_task(VENDOR, {"task_status": "succeed", "task_result": result})
        assert isinstance(progress, Failed)
        assert type(progress.error) is GenerationFailedError


def test_a_word_that_nobody_knows_means_that_it_is_being_made() -> None:
    for status in ("submitted", "processing", "dreaming", ""):
        assert kling.parse_task(VENDOR, {"task_status": status}) == Running()


def test_sound_costs_more_and_is_off_unless_it_is_asked_for() -> None:
    silent, loud = quoted(seconds=10), quoted(seconds=10, audio=True, resolution="1080p")

    assert (silent.request.audio, silent.cost_micros) == (False, 840_000)
    assert loud.cost_micros == 1_680_000


def test_what_kling_would_ignore_is_refused() -> None:
    frame = InputImage(data=an_image().data)
    for fields in (
        {"images": (frame,), "aspect_ratio": "9:16"},
        {"seed": 7},
        {"extra": {"callback_url": "https://here"}},
        {"model": "kling-v2-5-turbo", "audio": True},
        {"model": "kling-v2-6", "resolution": "720p"},
        {"model": "kling-v2-6", "extra": {"cfg_scale": 0.5}},
        {"seconds": 16},
    ):
        with pytest.raises(InvalidRequestError):
            quoted(**fields)


def test_a_pair_with_one_half_missing_opens_nothing() -> None:
    interface = catalog.vendor("kling").interface("kling")

    assert not interface.is_offered(Endpoints.of({"KLING_ACCESS_KEY": "a"}))
    assert interface.secret(Endpoints.of({"KLING_ACCESS_KEY": "a", "KLING_SECRET_KEY": "b"})) == (
        "a:b"
    )


async def test_a_mark_that_is_taken_says_that_an_earlier_try_was_accepted() -> None:
    async with saying(FORMATS[0]) as kling_says:
        taken = {"code": 1201, "message": "external_task_id already exists"}
        assert (await kling_says.submit(400, taken)) is SubmitUnknownError
