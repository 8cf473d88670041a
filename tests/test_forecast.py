"""When will it be done?"""

import math
import random
import statistics
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import NOON, a_job
from vidgen.forecast import (
    LONGEST_LOOK_S,
    UNKNOWN,
    Capacity,
    Duration,
    Place,
    eta,
    kind_of,
    look_in_s,
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


# --- when to look ---

SPREAD = Duration(
    samples=100,
    generated_p10=30,
    generated_p50=60,
    generated_p90=120,
    stored_p50=1,
    stored_p90=2,
)
INTERVAL_S = 5.0


def looks_s(learnt: Duration | None, until_s: float) -> list[float]:
    """When a video that is ready after *until_s* seconds is looked at; the last one finds it."""
    found, gone_s = [], 0.0
    while gone_s < until_s:
        gone_s += look_in_s(gone_s, INTERVAL_S, learnt)
        found.append(gone_s)
    return found


def test_while_nothing_is_known_looks_come_in_even_steps() -> None:
    few = replace(SPREAD, samples=3)

    assert looks_s(None, 20) == looks_s(few, 20) == [5, 10, 15, 20]


def test_the_first_look_comes_a_little_before_the_quickest_ones() -> None:
    assert looks_s(SPREAD, 1) == [30 * 0.8]


@given(gone_s=st.floats(0, 1e7), p50=st.floats(0.01, 1e5), spread=st.floats(1, 50))
def test_nobody_looks_more_often_than_the_setting_says_nor_sleeps_through_it(
    gone_s: float, p50: float, spread: float
) -> None:
    learnt = replace(
        SPREAD, generated_p10=p50 / spread, generated_p50=p50, generated_p90=p50 * spread
    )

    wait_s = look_in_s(gone_s, INTERVAL_S, learnt)

    assert wait_s >= INTERVAL_S
    assert wait_s <= max(LONGEST_LOOK_S, INTERVAL_S, p50 - gone_s)


def test_half_the_looks_find_videos_as_soon_though_times_drift() -> None:
    dice, learnt, times = random.Random(1), SPREAD, list[float]()
    planned, even, late_planned, late_even = 0, 0, 0.0, 0.0
    for number in range(4_000):
        ready_s = 60 * (1 + number / 8_000) * math.exp(dice.gauss(0, 0.54))
        looked = looks_s(learnt, ready_s)
        planned, late_planned = planned + len(looked), late_planned + looked[-1] - ready_s
        steps = math.ceil(ready_s / INTERVAL_S)
        even, late_even = even + steps, late_even + steps * INTERVAL_S - ready_s
        times.append(looked[-1])
        if number % 100 == 99:  # from what was seen, as in a service
            tenths = statistics.quantiles(times[-500:], n=10)
            p10, p50, p90 = tenths[0], tenths[4], tenths[8]
            learnt = replace(SPREAD, generated_p10=p10, generated_p50=p50, generated_p90=p90)

    assert planned <= even * 0.55
    assert late_planned <= late_even * 1.6


def test_videos_that_become_quicker_are_noticed() -> None:
    learnt, seen_s = SPREAD, 0.0
    for _ in range(12):
        seen_s = looks_s(learnt, 6)[-1]
        learnt = replace(SPREAD, generated_p10=seen_s, generated_p50=seen_s, generated_p90=seen_s)

    assert seen_s < 12


def test_who_wishes_for_the_last_of_all_days_has_an_estimate() -> None:
    job = a_job(
        status=JobStatus.PENDING,
        worker_id=None,
        due_at=datetime.max.replace(tzinfo=UTC) - timedelta(seconds=1),
    )

    found = eta(job, now=NOON, learnt=None, place=None, line=LINE)

    assert found is not None
    assert found.p90 == datetime.max.replace(tzinfo=UTC)
