"""A list of videos as evidence: what it takes to say that a paid submit never arrived."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiohttp import web

from tests.providers.test_http import listening
from vidgen.job import Operation, VideoRequest
from vidgen.providers.listing import Likeness, Reading, likeness
from vidgen.providers.protocol import Listing, Submission
from vidgen.providers.registry import ProvidersConfig, build

PROMPT = "A red kite over a grey sea"
FIELDS = {"model": "sora-2", "prompt": PROMPT, "seconds": "8", "size": "1280x720"}
REQUEST = VideoRequest(provider="sora", prompt=PROMPT, model="sora-2", seconds=8, size="1280x720")
OTHER = "a tram in the rain"


def a_video(**changes: Any) -> dict[str, Any]:
    created_at = int(datetime.now(UTC).timestamp())
    video = {"id": "video_1", "status": "queued", "created_at": created_at, **FIELDS, **changes}
    return {name: value for name, value in video.items() if value is not ...}


def ago(**span: float) -> int:
    return int((datetime.now(UTC) - timedelta(**span)).timestamp())


async def found(*pages: Any, date: str | None = None, since_s: float = 60) -> Listing:
    """What a gateway's list says that answers with *pages*, one after the other."""
    left = list(pages)

    async def handler(_: web.Request) -> web.Response:
        page = left.pop(0) if len(left) > 1 else left[0]
        body = {"data": page, "has_more": False} if isinstance(page, list) else page
        return web.Response(body=orjson.dumps(body), headers={"Date": date} if date else None)

    async with listening(handler) as url, finder(url) as find:
        listing: Listing = await find(datetime.now(UTC) - timedelta(seconds=since_s))
        return listing


@asynccontextmanager
async def finder(url: str) -> AsyncIterator[Any]:
    providers = build(ProvidersConfig.of(OPENAI_BASE_URL=f"{url}/v1"))
    sora = providers.finder("sora")
    assert sora is not None
    submission = Submission(job_id=uuid4(), attempt=1, request=REQUEST)
    credential = providers.credential("sora", "sora-2")

    async def find(since: datetime) -> Listing:
        return await sora.find_recent(submission, since, credential)

    try:
        yield find
    finally:
        await providers.aclose()


def ids(operations: Sequence[Operation]) -> list[str]:
    return [operation.id for operation in operations]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seconds": 8},
        {"seconds": 8.0},
        {"seconds": "8.0"},
        {"seconds": "8s"},
        {"seconds": 8.04},
        {"seconds": None},
        {"seconds": ...},
        {"seconds": "long"},
        {"seconds": "nan"},
        {"size": "1280X720"},
        {"size": "1280 × 720"},
        {"size": "1280*720"},
        {"size": "720p"},
        {"size": None},
        {"size": ...},
        {"size": [1280, 720]},
        {"model": "openai/sora-2"},
        {"model": "SORA-2"},
        {"model": "sora-2-2025-12-08"},
        {"model": None},
        {"model": ...},
        {"prompt": f"  {PROMPT}\n"},
        {"prompt": PROMPT.replace(" ", "\u00a0")},
        {"prompt": PROMPT.replace(" ", "\r\n")},
        {"prompt": PROMPT.upper()},
        {"prompt": PROMPT.replace("e", "e\u200b")},
        {"prompt": PROMPT.replace("k", "\uff4b")},
    ],
)
def test_spelling_and_silence_do_not_make_it_another_video(changes: dict[str, Any]) -> None:
    assert likeness(a_video(**changes), FIELDS) == "ours"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"seconds": "12"}, "other"),
        ({"seconds": 4.0}, "other"),
        ({"size": "720x1280"}, "other"),
        ({"prompt": OTHER}, "other"),
        ({"prompt": OTHER, "seconds": None, "size": None, "model": None}, "other"),
        ({"prompt": None, "seconds": 4}, "other"),
        ({"prompt": None}, "doubtful"),
        ({"prompt": ...}, "doubtful"),
        ({"prompt": ""}, "doubtful"),
        ({"prompt": "***"}, "doubtful"),
        ({"prompt": {"text": PROMPT}}, "doubtful"),
        ({"prompt": PROMPT[:12]}, "doubtful"),
        ({"prompt": PROMPT[:12] + "…"}, "doubtful"),
        ({"prompt": PROMPT[:12] + " ..."}, "doubtful"),
        ({"prompt": f"{PROMPT}, in high quality"}, "doubtful"),
        ({"model": "sora-2-pro"}, "doubtful"),
        ({"model": "deployment-7"}, "doubtful"),
    ],
)
def test_only_what_is_told_and_differs_makes_it_another_video(
    changes: dict[str, Any], kind: Likeness
) -> None:
    assert likeness(a_video(**changes), FIELDS) == kind


async def test_a_listed_video_is_a_candidate_however_it_is_written() -> None:
    listing = await found([a_video(seconds=8.0, model="openai/sora-2", prompt=PROMPT.upper())])

    assert ids(listing.candidates) == ["video_1"]


async def test_a_doubtful_video_is_nobody_s_to_adopt() -> None:
    listing = await found([a_video(prompt=None)])

    assert (ids(listing.candidates), ids(listing.doubtful)) == ([], ["video_1"])


async def test_an_unknown_server_s_empty_list_proves_nothing() -> None:
    assert not (await found([])).trusted


@pytest.mark.parametrize("created_at", [ago(hours=1), ago(seconds=5)], ids=["an hour old", "new"])
async def test_a_server_that_shows_a_video_is_known_to_list(created_at: int) -> None:
    listing = await found([a_video(prompt=OTHER, created_at=created_at)])

    assert (listing.candidates, listing.doubtful, listing.trusted) == ((), (), True)


@pytest.mark.parametrize("strange", [None, "video_1", 7, []])
async def test_what_is_no_video_proves_nothing(strange: Any) -> None:
    assert not (await found([strange])).trusted
    assert not (await found([a_video(prompt=OTHER), strange])).trusted


@pytest.mark.parametrize("id_", [None, ..., "", "a\0b", "x" * 1001, 1.5])
@pytest.mark.parametrize("prompt", [PROMPT, None])
async def test_one_video_nobody_can_follow_takes_the_trust_from_the_list(
    id_: Any, prompt: str | None
) -> None:
    other = a_video(prompt=OTHER)

    assert not (await found([other, a_video(id=id_, prompt=prompt)])).trusted
    assert (await found([other, a_video(id=id_, prompt=OTHER)])).trusted


@pytest.mark.parametrize("created_at", ["soon", 1e300, None, ..., -5, "nan"])
async def test_a_video_without_a_time_does_not_make_a_list_trusted(created_at: Any) -> None:
    assert not (await found([a_video(prompt=OTHER, created_at=created_at)])).trusted


async def test_a_list_that_was_not_seen_whole_proves_nothing() -> None:
    page = {"data": [a_video(prompt=OTHER)]}  # the same for whatever is asked after

    assert not (await found(page)).trusted
    assert not (await found(page | {"has_more": True})).trusted
    assert (await found(page, {"data": []})).trusted


async def test_a_list_without_an_end_is_left_and_proves_nothing() -> None:
    numbers = iter(range(1000))

    async def handler(_: web.Request) -> web.Response:
        video = a_video(id=f"video_{next(numbers)}", prompt=OTHER)
        return web.Response(body=orjson.dumps({"data": [video], "has_more": True}))

    async with listening(handler) as url, finder(url) as find:
        listing = await find(datetime.now(UTC) - timedelta(minutes=1))

    assert not listing.trusted
    assert next(numbers) == 50


async def test_an_old_video_ends_a_list_only_if_the_newest_come_first() -> None:
    old, older = (
        a_video(id="old", created_at=ago(hours=1)),
        a_video(id="older", created_at=ago(hours=2)),
    )
    new = a_video(id="new", prompt=PROMPT)

    falling = await found({"data": [old, older], "has_more": True}, [new])
    rising = await found({"data": [older, old], "has_more": True}, [new])

    assert (ids(falling.candidates), falling.trusted) == ([], True)
    assert (ids(rising.candidates), rising.trusted) == (["new"], True)


async def test_candidates_come_newest_first_and_those_without_a_time_before() -> None:
    listing = await found(
        [
            a_video(id="b", created_at=ago(seconds=10)),
            a_video(id="undated", created_at=...),
            a_video(id="a", created_at=ago(seconds=20)),
            a_video(id="in ms", created_at=ago(seconds=5) * 1000),
            a_video(id="too old", created_at=ago(seconds=300)),
        ]
    )

    assert ids(listing.candidates) == ["undated", "in ms", "b", "a"]


async def test_a_server_whose_clock_is_behind_loses_no_video() -> None:
    behind = datetime.now(UTC) - timedelta(minutes=10)
    video = a_video(created_at=int(behind.timestamp()))

    listing = await found([video], date=format_datetime(behind, usegmt=True))

    assert ids(listing.candidates) == ["video_1"]
    assert ids((await found([video])).candidates) == []


async def test_a_server_whose_clock_is_ahead_loses_no_video_either() -> None:
    ahead = datetime.now(UTC) + timedelta(minutes=10)

    # A gateway's clock may be ahead of the one that dated the video.
    for created_at in (ago(seconds=5), int(ahead.timestamp())):
        listing = await found(
            [a_video(created_at=created_at)], date=format_datetime(ahead, usegmt=True)
        )
        assert ids(listing.candidates) == ["video_1"]


@pytest.mark.parametrize("date", ["soon", "Thu, 99 Foo 2026"])
async def test_a_server_without_a_clock_proves_nothing(date: str) -> None:
    assert not (await found([a_video(prompt=OTHER)], date=date)).trusted


@pytest.mark.parametrize(
    ("told", "likeness_is"),
    [
        ({"resolution": "720p"}, "ours"),
        ({"resolution": "1080p"}, "other"),
        ({"resolution": None}, "ours"),
        ({"resolution": ["1080p"]}, "ours"),
        ({"seed": 8}, "other"),
        ({"seed": 7}, "ours"),
        ({"motion": "fast"}, "ours"),
        ({}, "ours"),
    ],
)
def test_what_a_server_repeats_as_it_was_sent_tells_two_videos_apart(
    told: dict[str, Any], likeness_is: str
) -> None:
    fields: dict[str, Any] = {"prompt": PROMPT, "resolution": "720p", "seed": 7}
    exact = ("resolution", "seed", "motion")

    assert likeness({"prompt": PROMPT, **told}, fields, exact) == likeness_is
    assert likeness({"prompt": PROMPT, **told}, fields) == "ours"


def test_the_vendor_s_own_empty_list_is_believed() -> None:
    reading = Reading(
        fields=FIELDS,
        since=datetime.now(UTC),
        at_vendor=True,
        operation_of=lambda video: Operation(
            provider="sora",
            id=video["id"],
            endpoint="https://api.openai.com/v1",
            model="sora-2",
            credential_id="server",
        ),
    )

    end = reading.take({"data": [], "has_more": False}, None, datetime.now(UTC))

    assert end is None
    assert reading.listing().trusted
    assert not replace(reading, at_vendor=False).listing().trusted
