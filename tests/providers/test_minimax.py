"""MiniMax's own ways: two versions, numbers for errors, a file id that becomes an address."""

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from tests.providers.formats.minimax import FORMATS
from tests.providers.said import saying
from vidgen import catalog
from vidgen.catalog import Endpoints
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    InvalidRequestError,
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
from vidgen.providers.minimax import parse_first, parse_second, version_of
from vidgen.providers.plain import Vendor
from vidgen.providers.protocol import Asset, Failed, Running, Succeeded
from vidgen.providers.registry import ProvidersConfig
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.testing.provider_wire import CLIP, KEY, PROMPT, Wire, an_image, finished_asset, opened

SECOND = pytest.mark.parametrize("wire", ["minimax"], indirect=True)
FIRST = pytest.mark.parametrize("wire", ["minimax-v1"], indirect=True)
VENDOR = Vendor(label="MiniMax", base_url="https://minimax.test", variable="MINIMAX_BASE_URL")
# What each documented number means to a submit, and to a look.
CODES: dict[int, tuple[type[ProviderError], type[ProviderError]]] = {
    **dict.fromkeys((1000, 1013, 1024, 1033), (SubmitUnknownError, TransientError)),
    1001: (SubmitUnknownError, TransientError),
    **dict.fromkeys((1002, 1039, 1041, 2045), (RateLimitedError, RateLimitedError)),
    **dict.fromkeys((1004, 2049, 2061), (AuthError, AuthError)),
    **dict.fromkeys((1008, 2056), (QuotaExhaustedError, TransientError)),
    **dict.fromkeys((1026, 1027), (ContentBlockedError, ProtocolError)),
    **dict.fromkeys((1042, 2013, 20132), (InputRejectedError, ProtocolError)),
    7777: (InputRejectedError, ProtocolError),
}


def quoted(**fields: Any) -> catalog.Quote:
    request = VideoRequest(provider="minimax", prompt=PROMPT, **fields)
    return catalog.quote(
        request, today=date(2026, 11, 26), endpoints=Endpoints.of({}), allow_unknown_models=False
    )


def second(**task: Any) -> Any:
    return parse_second(VENDOR, task, "MiniMax-H3")


async def test_each_number_in_base_resp_has_its_class_under_http_200() -> None:
    async with saying(FORMATS[1]) as minimax_says:
        found = {}
        for code in CODES:
            body = {"base_resp": {"status_code": code, "status_msg": "no"}}
            submit = await minimax_says.submit(200, body)
            found[code] = (submit, await minimax_says.look(200, body, version="v1"))

    wanted = {code: kinds for code, kinds in CODES.items() if code not in {1026, 1027}}
    # There the look is told the verdict itself.
    blocked = dict.fromkeys((1026, 1027), (ContentBlockedError, None))
    assert found == wanted | blocked


async def test_each_number_at_the_end_of_a_message_has_its_class() -> None:
    async with saying(FORMATS[0]) as minimax_says:
        found = {}
        for code in CODES:
            body = {"type": "error", "error": {"type": "x", "message": f"no, dear ({code})"}}
            submit = await minimax_says.submit(400, body)
            found[code] = (submit, await minimax_says.look(400, body, version="v2"))

    assert found == CODES


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("authorized_error", AuthError),
        ("insufficient_balance_error", QuotaExhaustedError),
        ("rate_limit_error", RateLimitedError),
        ("overloaded_error", TransientError),
        ("bad_request_error", InputRejectedError),
    ],
)
async def test_without_a_number_the_word_speaks(word: str, kind: type[ProviderError]) -> None:
    async with saying(FORMATS[0]) as minimax_says:
        assert await minimax_says.submit(400, {"error": {"type": word, "message": "no"}}) is kind


def test_the_model_decides_which_version_it_is() -> None:
    assert [version_of(name) for name in ("MiniMax-H3", "MiniMax-H3-Max", "MiniMax-H4")] == [
        "v2"
    ] * 3
    older = ("MiniMax-Hailuo-2.3", "MiniMax-Hailuo-02", "T2V-01", "I2V-01-live", "S2V-01")
    assert [version_of(name) for name in older] == ["v1"] * 5


@FIRST
async def test_the_file_of_a_finished_video_is_resolved_when_it_is_fetched(wire: Wire) -> None:
    operation, asset = await finished_asset(wire)
    assert operation.extra == {"version": "v1"}
    assert asset.uri == f"file:{operation.id}1"

    assert await wire.download(operation, asset) == CLIP
    assert await wire.download(operation, asset) == CLIP

    paths = [request.path for request in wire.simulator.received]
    assert paths.count("/minimax/v1/query/video_generation") == 1  # one exchange for one look
    assert paths.count("/minimax/v1/files/retrieve") == 2  # a fresh address each time


@FIRST
async def test_a_file_that_is_gone_is_an_expired_result(wire: Wire) -> None:
    operation, asset = await finished_asset(wire)
    wire.simulator.generations.clear()

    with pytest.raises(ResultExpiredError):
        await wire.download(operation, asset)


@FIRST
async def test_the_address_of_a_file_elsewhere_gets_no_key(
    wire: Wire, simulators: SimulatorServer, config: ProvidersConfig
) -> None:
    lenient = replace(config, allow_private_addresses=True)
    async with opened(wire.format, simulators, lenient) as other:
        operation, asset = await finished_asset(other)
        home, other.simulator.origin = other.simulator.origin, simulators.foreign.origin
        try:
            with pytest.raises(ProviderError):  # nothing lies there, and that is not the point
                await other.download(operation, asset)
        finally:
            other.simulator.origin = home

    assert len(simulators.foreign.received) == 1
    assert KEY not in repr(simulators.foreign.received)
    assert "authorization" not in simulators.foreign.received[0].headers


@pytest.mark.parametrize("extra", [{}, {"version": "v3"}, {"version": 2}])
@SECOND
async def test_an_operation_that_does_not_know_its_version_is_not_guessed_at(
    wire: Wire, extra: Any
) -> None:
    with pytest.raises(OperationLostError):
        await wire.poll(replace(await wire.submit(), extra=extra))
    assert wire.simulator.counts["poll"] == 0


@SECOND
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


@SECOND
async def test_a_task_that_begins_between_look_and_cancel_goes_on(wire: Wire) -> None:
    wire.simulator.generation_s = 600
    operation = await wire.submit()
    wire.script(Rule(deed="cancel", outcome="400"))

    assert await wire.provider.cancel(operation, wire.credential) is False


@FIRST
async def test_the_first_version_has_no_cancel(wire: Wire) -> None:
    assert await wire.provider.cancel(await wire.submit(), wire.credential) is False


@SECOND
async def test_a_video_costs_the_seconds_that_were_counted(wire: Wire) -> None:
    progress = await wire.poll(await wire.submit())

    assert isinstance(progress, Succeeded)
    assert progress.cost_micros == 8 * 80_000 == wire.simulator.bill[0].cost_micros
    assert progress.expires_at is not None  # it stands in the address


@pytest.mark.parametrize(
    ("usage", "resolution", "micros"),
    [
        ({"total_seconds": 10}, "2K", 1_300_000),
        ({"total_seconds": 10, "input_image_count": 7}, "768P", 880_000),
        ({"total_seconds": 10, "input_image_count": 5}, "768P", 800_000),
        ({"total_seconds": "nan"}, "768P", None),
        ({"total_seconds": 1e9}, "768P", None),
        ({"total_seconds": 10}, "9K", None),
        ({}, "768P", None),
        (None, "768P", None),
    ],
)
def test_only_a_sane_cost_is_believed(usage: Any, resolution: str, micros: int | None) -> None:
    progress = second(
        status="succeeded", content={"url": "https://cdn/x"}, usage=usage, resolution=resolution
    )

    assert progress.cost_micros == micros


def test_each_word_has_its_meaning_in_both_versions() -> None:
    for word in ("queued", "running", "dreaming"):
        assert second(status=word) == Running()
    for word in ("Preparing", "Queueing", "Processing", "Dreaming"):
        assert parse_first(VENDOR, {"status": word}) == Running()
    assert type(second(status="failed").error) is GenerationFailedError
    assert type(second(status="failed", error={"code": "1027"}).error) is ContentBlockedError
    assert type(second(status="failed", error={"message": "x (2013)"}).error) is InputRejectedError
    assert type(second(status="expired").error) is ResultExpiredError
    spent = {"resolution": "768P", "usage": {"total_seconds": 10}}
    for status, said, charged, cost in (
        ("expired", {}, True, None),
        ("expired", spent, True, 800_000),
        ("failed", {}, False, None),
        ("failed", spent, True, 800_000),
        ("failed", spent | {"usage": {"total_seconds": 0}}, False, 0),
        ("succeeded", {}, False, None),
        ("succeeded", spent, True, 800_000),
    ):
        verdict = second(status=status, **said)
        assert (verdict.charged, verdict.cost_micros) == (charged, cost)
    cancelled = second(status="cancelled")
    assert (type(cancelled.error), cancelled.charged) == (GenerationFailedError, False)
    older = parse_first(VENDOR, {"status": "Fail"})
    assert isinstance(older, Failed)
    assert type(older.error) is GenerationFailedError


def test_a_success_without_a_video_is_a_failure() -> None:
    assert isinstance(second(status="succeeded", content={}), Failed)
    assert isinstance(second(status="succeeded", content={"url": "file:1"}), Failed)
    assert isinstance(parse_first(VENDOR, {"status": "Success", "file_id": ""}), Failed)


@SECOND
async def test_references_go_along_by_their_role(wire: Wire) -> None:
    await wire.submit(an_image("reference"), an_image("reference"), aspect_ratio=None)

    sent: list[Any] = [request.body for request in wire.simulator.of("submit")]
    assert [item["role"] for item in sent[0]["content"][1:]] == ["reference_image"] * 2


@SECOND
async def test_an_asset_of_ours_is_no_word_of_the_vendor(wire: Wire) -> None:
    operation, _ = await finished_asset(wire)
    wire.simulator.generations.clear()

    with pytest.raises(ResultExpiredError):
        await wire.download(operation, Asset(variant="video", uri="file:1"))


def test_prices_are_those_of_the_clip_or_of_the_second() -> None:
    assert quoted().cost_micros == 400_000
    assert quoted(resolution="2k", seconds=10).cost_micros == 1_300_000
    older = "MiniMax-Hailuo-2.3"
    assert quoted(model=older).cost_micros == 280_000
    assert quoted(model=older, seconds=10).cost_micros == 560_000
    assert quoted(model=older, resolution="1080p").cost_micros == 490_000
    many = tuple(InputImage(role="reference", data=an_image().data) for _ in range(7))
    assert quoted(images=many, seconds=10).cost_micros == 880_000


def test_what_minimax_would_ignore_or_refuse_is_refused() -> None:
    frame, reference = InputImage(data=an_image().data), InputImage(role="reference", key="a.png")
    for fields in (
        {"model": "MiniMax-Hailuo-2.3", "resolution": "1080p", "seconds": 10},
        {"model": "MiniMax-Hailuo-2.3", "aspect_ratio": "9:16"},
        {"model": "MiniMax-Hailuo-2.3", "audio": True},
        {"model": "MiniMax-Hailuo-2.3-Fast"},
        {"model": "MiniMax-H3-Max", "images": (reference,)},
        {"images": (frame,), "aspect_ratio": "9:16"},
        {"images": (frame, reference)},
        {"negative_prompt": "rain"},
        {"seed": 7},
        {"audio": False},
        {"extra": {"prompt_optimizer": False}},
        {"seconds": 3},
    ):
        with pytest.raises(InvalidRequestError):
            quoted(**fields)
