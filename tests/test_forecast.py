"""When will it be done?"""

from datetime import UTC, datetime, timedelta

import pytest

from tests.builders import NOON, a_job
from vidgen.forecast import (
    UNKNOWN,
    Capacity,
    Duration,
    Place,
    eta,
    kind_of,
)
from vidgen.job import JobStatus, Stage, VideoJob

LINE = Capacity(slots=2, limit_per_min=10)
LEARNT = Duration(
    samples=40,
    generated_p10=40,
    generated_p50=60,
    generated_p90=100,
    stored_p50=4,
    stored_p90=8,
)


def left_s(job: VideoJob, gone_s: float = 0, place: Place | None = None) -> tuple[float, float]:
    now = NOON + timedelta(seconds=gone_s)
    found = eta(job, now=now, learnt=LEARNT, place=place, line=LINE)
    assert found is not None
    return (found.p50 - now).total_seconds(), (found.p90 - now).total_seconds()


@pytest.mark.parametrize("status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_final_job_has_no_estimate(status: JobStatus) -> None:
    job = a_job(status=status)

    assert eta(job, now=NOON, learnt=LEARNT, place=None, line=LINE) is None


def test_a_generation_has_so_much_left_as_such_videos_take() -> None:
    assert left_s(a_job(Stage.GENERATING)) == (64, 108)
    assert left_s(a_job(Stage.GENERATING), gone_s=30) == (34, 78)


@pytest.mark.parametrize("gone_s", [60, 61, 99, 100, 101, 1000, 100_000])
def test_an_estimate_is_never_in_the_past_however_late_the_video_is(gone_s: float) -> None:
    p50_s, p90_s = left_s(a_job(Stage.GENERATING), gone_s=gone_s)

    assert 1 <= p50_s <= p90_s


def test_the_longer_it_is_late_the_longer_it_will_be() -> None:
    assert left_s(a_job(Stage.GENERATING), 200) < left_s(a_job(Stage.GENERATING), 2000)


def test_a_waiting_job_waits_for_its_turn_or_for_a_place_whichever_is_later() -> None:
    job = a_job(status=JobStatus.PENDING, worker_id=None, due_at=NOON)

    next_one = left_s(job, place=Place(position=1, same_provider=1))
    by_limit = left_s(job, place=Place(position=2, same_provider=31))
    by_place = left_s(job, place=Place(position=5, same_provider=1))

    assert next_one[0] == 64
    assert by_limit[0] == 64 + 30 * 6  # ten a minute
    assert by_place[0] == 64 + 2 * 64  # two at once


def test_a_delayed_job_begins_when_it_is_due() -> None:
    job = a_job(status=JobStatus.PENDING, worker_id=None, due_at=NOON + timedelta(hours=1))

    assert left_s(job)[0] == 3600 + 64


def test_what_has_never_been_made_takes_what_vendors_say() -> None:
    found = eta(a_job(Stage.GENERATING), now=NOON, learnt=None, place=None, line=LINE)

    assert found is not None
    assert (found.basis, found.samples) == ("default", 0)
    assert found.p50 == NOON + timedelta(seconds=UNKNOWN.generated_p50 + UNKNOWN.stored_p50)


@pytest.mark.parametrize(
    ("parameters", "seconds", "size"),
    [
        ({"seconds": 8, "size": "1280x720"}, 8, "1280x720"),
        (
            {"seconds": 6, "size": None, "aspect_ratio": "16:9", "resolution": "720p"},
            6,
            "16:9 720p",
        ),
        ({"seconds": None, "aspect_ratio": None, "resolution": "4k"}, 0, "4k"),
        ({}, 0, ""),
    ],
)
def test_a_kind_is_model_length_and_size(
    parameters: dict[str, object], seconds: int, size: str
) -> None:
    kind = kind_of(a_job(parameters=parameters))

    assert (kind.model, kind.seconds, kind.size) == ("sora-2", seconds, size)


def test_who_wishes_for_the_last_of_all_days_has_an_estimate() -> None:
    job = a_job(
        status=JobStatus.PENDING,
        worker_id=None,
        due_at=datetime.max.replace(tzinfo=UTC) - timedelta(seconds=1),
    )

    found = eta(job, now=NOON, learnt=None, place=None, line=LINE)

    assert found is not None
    assert found.p90 == datetime.max.replace(tzinfo=UTC)
