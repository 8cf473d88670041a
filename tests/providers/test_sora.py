"""The OpenAI protocol's own ways: many dialects, lists, pictures, deletion."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest

from tests.providers.formats.all import FORMATS
from vidgen.errors import (
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    NotReadyError,
    OperationLostError,
    ProtocolError,
    ProviderError,
    ResultExpiredError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import VideoRequest
from vidgen.providers import sora
from vidgen.providers.answer import Answer, private_texts
from vidgen.providers.protocol import Failed, Running, Submission, Succeeded
from vidgen.providers.registry import WORTH_A_PAGE, FindsRecent, ListsVideos, ProvidersConfig
from vidgen.providers.sora import build_fields, operation_id, parse_video, refusal
from vidgen.simulator.control import Rule
from vidgen.simulator.server import SimulatorServer
from vidgen.testing.provider_wire import CLIP, KEY, Wire, an_image, opened

pytestmark = pytest.mark.parametrize("wire", ["sora"], indirect=True)
HOUR_AGO = timedelta(hours=1)


def answer(status: int, body: Any, **headers: str) -> Answer:
    return Answer(status=status, headers=headers, body=orjson.dumps(body))


def verdict(video: dict[str, Any]) -> Failed:
    progress = parse_video(video, {})
    assert isinstance(progress, Failed)
    return progress


def failed(video: dict[str, Any]) -> ProviderError:
    return verdict(video).error


async def recent(wire: Wire, **changes: Any) -> list[str]:
    finder = wire.provider
    assert isinstance(finder, FindsRecent)
    since = datetime.now(UTC) - HOUR_AGO
    listing = await finder.find_recent(wire.submission(**changes), since, wire.credential)
    return [operation.id for operation in listing.candidates]


@pytest.mark.parametrize("dialect", ["sglang", "vllm-omni", "openrouter", "new-api", "azure"])
async def test_a_video_is_made_on_every_server_that_speaks_the_protocol(
    wire: Wire, simulators: SimulatorServer, config: ProvidersConfig, dialect: str
) -> None:
    wire.simulator.dialect = dialect
    wire.simulator.generation_s = 60
    operation = await wire.submit()
    assert isinstance(await wire.poll(operation), Running)
    wire.simulator.generations[operation.id].ready_at = 0

    progress = await wire.poll(operation)
    assert isinstance(progress, Succeeded)
    if dialect == "new-api":  # it answers with a redirect to another host
        return
    assert await wire.download(operation, progress.assets[0]) == CLIP
    assert len(wire.simulator.bill) == 1


async def test_a_list_is_read_on_for_many_videos_but_not_for_a_few(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sora, "PAGE_LENGTH", 4)
    lister = wire.provider
    assert isinstance(lister, ListsVideos)
    operations = [await wire.submit() for _ in range(10)]
    old = operations[: WORTH_A_PAGE - 1]

    of_many = await lister.look_through(operations[:7], wire.credential, 5)
    of_some = await lister.look_through([*old, *operations[-4:]], wire.credential, 5)
    bounded = await lister.look_through(operations, wire.credential, 1)

    assert of_many.found.keys() >= {each.id for each in operations[2:7]}
    assert of_many.pages == 2
    assert of_some.found.keys() == {each.id for each in operations[-4:]}
    assert (of_some.pages, bounded.pages) == (1, 1)
    assert wire.simulator.counts["list"] == 4


async def test_a_server_that_takes_forms_only_is_asked_in_forms_from_then_on(wire: Wire) -> None:
    wire.simulator.dialect = "vllm-omni"

    await wire.submit()
    await wire.submit()

    kinds = [each.headers["content-type"].partition(";")[0] for each in wire.simulator.of("submit")]
    assert kinds == ["application/json", "multipart/form-data", "multipart/form-data"]
    assert len(wire.simulator.bill) == 2


async def test_pictures_come_beside_the_video(wire: Wire) -> None:
    operation = await wire.submit()
    progress = await wire.poll(operation)

    assert isinstance(progress, Succeeded)
    assert [asset.variant for asset in progress.assets] == ["video", "thumbnail", "spritesheet"]
    assert progress.expires_at is not None


async def test_a_started_video_is_found_again_by_what_was_asked_for(wire: Wire) -> None:
    mine = await wire.submit()
    await wire.submit(prompt="something else")
    await wire.submit(seconds=4)
    twin = await wire.submit()

    assert set(await recent(wire)) == {mine.id, twin.id}
    assert await recent(wire, prompt="never asked for") == []


async def test_a_long_list_is_read_page_by_page(wire: Wire) -> None:
    mine = await wire.submit(prompt="the oldest")
    for number in range(205):
        await wire.submit(prompt=f"number {number}")

    assert await recent(wire, prompt="the oldest") == [mine.id]
    assert wire.simulator.counts["list"] == 3


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


async def test_cancelling_deletes_the_video(wire: Wire) -> None:
    operation = await wire.submit()

    assert await wire.provider.cancel(operation, wire.credential)
    assert not await wire.provider.cancel(operation, wire.credential)
    with pytest.raises(OperationLostError):
        await wire.poll(operation)


async def test_a_download_refused_long_after_completion_is_expired(wire: Wire) -> None:
    operation = await wire.submit()
    progress = await wire.poll(operation)
    assert isinstance(progress, Succeeded)
    wire.script(Rule(deed="content", outcome="404"))

    with pytest.raises(NotReadyError):
        await wire.download(operation, progress.assets[0])
    generation = wire.simulator.generations[operation.id]
    generation.created_at = generation.ready_at = generation.ready_at - 600
    with pytest.raises(ResultExpiredError):
        await wire.download(operation, progress.assets[0])


async def test_the_key_goes_into_the_header_that_is_configured(
    wire: Wire, simulators: SimulatorServer, config: ProvidersConfig
) -> None:
    async with opened(
        FORMATS["sora"], simulators, config.over(OPENAI_AUTH_STYLE="api-key")
    ) as azure:
        await azure.submit()

    headers = simulators.sora.of("submit")[-1].headers
    assert headers["api-key"] == KEY
    assert "authorization" not in headers


async def test_an_image_of_another_size_is_refused_before_it_is_sent(wire: Wire) -> None:
    with pytest.raises(InputRejectedError, match="640x480"):
        await wire.submit(an_image(size=(640, 480)))

    assert not wire.simulator.received


def test_only_a_status_is_needed(wire: Wire) -> None:
    assert parse_video({"status": "queued"}, {}) == Running()
    assert parse_video({"status": "in_progress", "progress": "45%"}, {}) == Running(percent=45)
    assert parse_video({"status": "dreaming", "progress": 400}, {}) == Running(percent=100)
    assert parse_video({}, {"openai-poll-after-ms": "120000"}) == Running(poll_after_s=60)
    assert isinstance(parse_video({"status": "COMPLETED"}, {}), Succeeded)


def test_a_finished_video_may_bring_its_address_and_its_price(wire: Wire) -> None:
    progress = parse_video(
        {"status": "completed", "unsigned_urls": ["https://cdn/x"], "usage": {"cost": 0.1}}, {}
    )

    assert isinstance(progress, Succeeded)
    assert [asset.uri for asset in progress.assets] == ["https://cdn/x"]
    assert progress.cost_micros == 100_000


@pytest.mark.parametrize(("word", "dollars"), [("failed", 0), ("failed", 0.04), ("cancelled", 0)])
def test_a_gateway_may_tell_what_a_failure_cost(wire: Wire, word: str, dollars: float) -> None:
    progress = parse_video({"status": word, "usage": {"cost": dollars}}, {})

    assert isinstance(progress, Failed)
    assert (progress.charged, progress.cost_micros) == (dollars > 0, dollars * 1_000_000)


@pytest.mark.parametrize("rubbish", [None, [], {}, "x", -5, 1e400, True, [[]]])
def test_rubbish_beside_the_status_harms_nobody(wire: Wire, rubbish: Any) -> None:
    names = ("progress", "expires_at", "usage", "unsigned_urls", "video_url", "model", "error")
    for word in ("queued", "completed", "failed"):
        parse_video({"status": word, **dict.fromkeys(names, rubbish)}, {})
    parse_video({"status": "completed", "usage": {"cost": rubbish}}, {})


def test_each_last_word_has_its_class(wire: Wire) -> None:
    moderation = {"status": "failed", "error": {"code": "moderation_blocked", "message": "no"}}

    assert type(failed(moderation)) is ContentBlockedError
    assert type(failed({"status": "failed", "error": {"message": "oops"}})) is GenerationFailedError
    assert type(failed({"status": "failed", "error": {"code": 7}})) is GenerationFailedError
    assert type(failed({"status": "cancelled"})) is GenerationFailedError
    assert type(failed({"status": "expired"})) is ResultExpiredError
    assert type(failed({"status": "deleted"})) is OperationLostError


@pytest.mark.parametrize("word", ["cancelled", "canceled", "deleted", "expired"])
def test_nobody_knows_whether_a_video_that_was_ended_is_charged(wire: Wire, word: str) -> None:
    assert verdict({"status": word}).charged
    assert not verdict({"status": "failed"}).charged


def test_a_verdict_is_told_by_its_code_and_not_in_words_that_may_hold_the_prompt(
    wire: Wire,
) -> None:
    def said(**error: Any) -> str:
        return failed({"status": "failed", "error": error}).message

    assert said(code="moderation_blocked", message="a secret kite") == (
        "The provider's moderation blocked the video (code moderation_blocked); change the prompt"
        " or the image."
    )
    assert said(code="server_error", message="a secret kite") == (
        "The generation failed at the provider (code server_error)."
    )
    assert said(message="a secret kite") == (
        "The generation failed at the provider, which gives no code for it."
    )
    assert said(code="no kite may fly here") == said()
    blocked = failed({"status": "failed", "error": "blocked by our Moderation system: a kite"})
    assert type(blocked) is ContentBlockedError
    assert "kite" not in blocked.message


def test_only_a_refused_submit_is_quoted_and_without_what_was_private(wire: Wire) -> None:
    style = "in the manner of the old masters"
    request = VideoRequest(
        provider="sora", prompt="a kite", negative_prompt="rain", extra={"style": style}
    )
    body = {"error": {"message": f"no 'rain', no 'a kite', {style}", "code": "bad"}}
    private = private_texts(request)

    submit = refusal(answer(400, body), "submit", private=private)
    look = refusal(answer(400, body), "poll")

    assert submit.message == "The provider refused the submit (400 bad): no '…', no '…', …"
    assert look.message == "The provider refused the poll (400 bad)."


@pytest.mark.parametrize(
    ("cost", "micros"),
    [
        (0, 0),
        (0.1, 100_000),
        ("1.25", 1_250_000),
        (1000, 1_000_000_000),
        (-0.01, None),
        (1000.01, None),
        (1e300, None),
        ("1e999999", None),
        ("nan", None),
        ("inf", None),
        (10**30, None),
        (True, None),
        ([], None),
        ("x", None),
    ],
)
def test_only_a_sane_cost_is_believed(wire: Wire, cost: Any, micros: int | None) -> None:
    progress = parse_video({"status": "completed", "usage": {"cost": cost}}, {})

    assert isinstance(progress, Succeeded)
    assert progress.cost_micros == micros


@pytest.mark.parametrize("number", ["nan", "inf", "1e999999", 1e300, 2**63, -(2**63), "9" * 400])
def test_absurd_numbers_are_none(wire: Wire, number: Any) -> None:
    video = {"expires_at": number, "progress": number}

    done = parse_video({"status": "completed", **video}, {})
    running = parse_video({"status": "queued", **video}, {})

    assert isinstance(done, Succeeded)
    assert done.expires_at is None
    assert isinstance(running, Running)
    assert running.percent in {None, 0, 100}


@pytest.mark.parametrize(
    "value", ["a\0b", "x" * 1001, "\n", " ", ".", "..", "", None, True, [], 1.5]
)
def test_an_id_nobody_could_store_or_ask_for_is_none(wire: Wire, value: Any) -> None:
    with pytest.raises(ProtocolError):
        operation_id({"id": value})


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "seconds is wrong", "code": None}},
        {"error": "seconds is wrong"},
        {"detail": "seconds is wrong"},
        {"detail": [{"loc": ["body", "seconds"], "msg": "seconds is wrong"}]},
        {"code": "bad", "msg": "seconds is wrong"},
        {"message": "seconds is wrong"},
    ],
)
def test_errors_are_read_in_every_shape(wire: Wire, body: Any) -> None:
    error = refusal(answer(400, body), "submit")

    assert type(error) is InputRejectedError
    assert "seconds is wrong" in error.message


def test_an_unknown_model_s_parameters_are_passed_on(wire: Wire) -> None:
    request = VideoRequest(
        provider="sora",
        prompt="a kite",
        model="wan-2.2",
        seconds=5,
        seed=7,
        negative_prompt="rain",
        extra={"guidance_scale": 4},
    )

    assert build_fields(Submission(job_id=uuid4(), attempt=1, request=request)) == {
        "model": "wan-2.2",
        "prompt": "a kite",
        "seconds": "5",
        "seed": 7,
        "negative_prompt": "rain",
        "guidance_scale": 4,
    }
