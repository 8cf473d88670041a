"""Luma's own ways: seconds as text, images by address, a list that proves little."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from vidgen import catalog
from vidgen.errors import (
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    InvalidRequestError,
    OperationLostError,
    ProtocolError,
    QuotaExhaustedError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import InputImage, VideoRequest
from vidgen.providers.luma import parse_generation
from vidgen.providers.protocol import Failed, Listing, Running
from vidgen.providers.registry import FindsRecent
from vidgen.simulator.control import Rule
from vidgen.testing.provider_wire import Wire, an_image

pytestmark = pytest.mark.parametrize("wire", ["luma"], indirect=True)


async def listed(wire: Wire, **changes: Any) -> Listing:
    finder = wire.provider
    assert isinstance(finder, FindsRecent)
    since = datetime.now(UTC) - timedelta(hours=1)
    return await finder.find_recent(wire.submission(**changes), since, wire.credential)


async def recent(wire: Wire, **changes: Any) -> list[str]:
    return [each.id for each in (await listed(wire, **changes)).candidates]


async def test_an_image_is_refused_before_it_is_sent_and_an_address_of_one_goes(
    wire: Wire,
) -> None:
    with pytest.raises(InputRejectedError, match=r"extra\.keyframes"):
        await wire.submit(an_image())
    assert not wire.simulator.received

    frame = {"type": "image", "url": "https://example.com/kite.png"}
    await wire.submit(extra={"keyframes": {"frame0": frame}, "loop": True})

    body = wire.simulator.of("submit")[-1].body
    assert isinstance(body, dict)
    assert body["keyframes"] == {"frame0": frame}


async def test_a_started_video_is_found_again_by_what_was_asked_for(wire: Wire) -> None:
    mine = await wire.submit()
    await wire.submit(prompt="something else")
    await wire.submit(seconds=9)
    await wire.submit(resolution="540p")
    await wire.submit(aspect_ratio="9:16")
    twin = await wire.submit()

    assert set(await recent(wire)) == {mine.id, twin.id}
    assert await recent(wire, prompt="never asked for") == []


async def test_a_list_that_shows_others_with_their_times_disproves(wire: Wire) -> None:
    assert not (await listed(wire)).trusted  # an empty list may always be empty

    await wire.submit(prompt="something else")

    assert (await listed(wire)).trusted


async def test_a_long_list_is_read_with_overlapping_pages(wire: Wire) -> None:
    mine = await wire.submit(prompt="the oldest")
    for number in range(205):
        await wire.submit(prompt=f"number {number}")

    listing = await listed(wire, prompt="the oldest")

    assert [each.id for each in listing.candidates] == [mine.id]
    assert [each.query["offset"] for each in wire.simulator.of("list")] == ["0", "90", "180"]


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


async def test_an_account_without_credits_is_told_so_by_a_sentence(wire: Wire) -> None:
    wire.script(Rule(deed="submit", outcome="429-insufficient-quota"))

    with pytest.raises(QuotaExhaustedError, match="Insufficient credits"):
        await wire.submit()


def test_only_a_state_is_needed(wire: Wire) -> None:
    for word in ("queued", "dreaming", "imagining", None):
        assert parse_generation({"state": word}) == Running()
    with pytest.raises(ProtocolError):
        parse_generation({"id": "x"})


@pytest.mark.parametrize("assets", [None, [], {}, {"video": None}, {"video": "video.mp4"}])
def test_a_generation_that_completed_without_a_video_is_looked_at_again(
    wire: Wire, assets: object
) -> None:
    with pytest.raises(ProtocolError):
        parse_generation({"state": "completed", "assets": assets})


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"failure_reason": "400: prompt not allowed because advanced moderation failed"}, True),
        ({"failure_code": "content_moderated"}, True),
        ({"failure_reason": "500: internal error"}, False),
        ({"failure_reason": None}, False),
        ({}, False),
    ],
)
def test_moderation_is_told_by_its_reason_and_no_failure_is_charged(
    wire: Wire, fields: dict[str, object], kind: bool
) -> None:
    progress = parse_generation({"state": "failed", **fields})

    assert isinstance(progress, Failed)
    assert type(progress.error) is (ContentBlockedError if kind else GenerationFailedError)
    assert not progress.charged


async def test_after_a_cancel_nobody_can_tell_whether_it_stopped(wire: Wire) -> None:
    wire.simulator.generation_s = 60
    operation = await wire.submit()

    assert await wire.provider.cancel(operation, wire.credential) is None

    assert wire.simulator.counts["cancel"] == 1
    with pytest.raises(OperationLostError):
        await wire.poll(operation)
    wire.script(Rule(deed="cancel", outcome="409"))
    other = await wire.submit()
    assert await wire.provider.cancel(other, wire.credential) is False


def test_what_luma_would_refuse_or_ignore_is_refused_before(wire: Wire) -> None:
    wanted = VideoRequest(provider="luma", prompt="a kite")
    image = InputImage(url="https://example.com/kite.png")

    def quoted(**changes: Any) -> catalog.Quote:
        return catalog.quote(
            replace(wanted, **changes),
            today=date(2026, 11, 26),
            endpoints=catalog.Endpoints.of({}),
            allow_unknown_models=False,
        )

    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"images": (image,)}, "an image as nothing"),
        ({"seed": 7}, "takes no seed"),
        ({"audio": True}, "makes no sound"),
        ({"seconds": 8}, "takes seconds 5, 9"),
        ({"extra": {"callback_url": "https://example.com"}}, "callback_url"),
        ({"extra": {"style": "noir"}}, "takes extra"),
    )
    for changes, sentence in refused:
        with pytest.raises(InvalidRequestError, match=sentence):
            quoted(**changes)
    assert quoted(model="ray-flash-2", seconds=9, resolution="540p").cost_micros == 9 * 27_371
