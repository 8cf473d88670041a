"""When to look."""

import itertools
import math
import random
import statistics
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen.forecast import Duration
from vidgen.schedule import (
    LEAST_SPREAD,
    LIST_SHARE,
    LONGEST_LOOK_S,
    Experience,
    Guess,
    Trail,
    guess_of,
    list_in_s,
    look_in_s,
)

SPREAD = Duration(
    samples=100,
    generated_p10=30,
    generated_p50=60,
    generated_p90=120,
    stored_p50=1,
    stored_p90=2,
)
INTERVAL_S = 5.0
MEDIAN_S = 60.0
SIGMA = 0.3


def looks_s(guess: Guess | None, until_s: float) -> list[float]:
    """When a video that is ready after *until_s* seconds is looked at; the last one finds it."""
    found, gone_s = [], 0.0
    while gone_s < until_s:
        gone_s += look_in_s(gone_s, INTERVAL_S, guess)
        found.append(gone_s)
    return found


def draw_s(dice: random.Random, median_s: float = MEDIAN_S) -> float:
    return median_s * math.exp(dice.gauss(0, SIGMA))


def taught(times_s: list[float], told: Callable[[float], float] | None = None) -> Experience:
    """Of videos that took so long, one by one, each looked at in even steps."""
    experience = Experience()
    for time_s in times_s:
        followed(experience, time_s, told)
    return experience


def followed(
    experience: Experience, time_s: float, told: Callable[[float], float] | None = None
) -> list[float]:
    """When a video that takes *time_s* is looked at; *told* says how much is done of a share."""
    trail, age_s, found = Trail(experience), 0.0, []
    while age_s < time_s:
        if age_s > 0:
            share = age_s / time_s
            trail.saw_running(age_s, None if told is None else int(100 * told(share)))
        age_s += trail.look_in_s(age_s, INTERVAL_S, None, jitter=0.5)
        found.append(age_s)
    trail.saw_ready(age_s)
    return found


def test_while_nothing_is_known_looks_come_in_even_steps() -> None:
    few = replace(SPREAD, samples=3)

    assert guess_of(few) is None
    assert looks_s(None, 20) == [5, 10, 15, 20]


def test_before_the_quickest_are_ready_nobody_looks_and_around_the_median_soon_again() -> None:
    first_s, *others_s = looks_s(guess_of(SPREAD), 60)

    assert 25 < first_s < 35
    assert max(after - before for before, after in itertools.pairwise(others_s)) < 2 * INTERVAL_S


@given(gone_s=st.floats(-1e3, 1e7), p50=st.floats(0.01, 1e5), spread=st.floats(1, 50))
def test_nobody_looks_more_often_than_the_setting_says_nor_sleeps_through_it(
    gone_s: float, p50: float, spread: float
) -> None:
    learnt = replace(
        SPREAD, generated_p10=p50 / spread, generated_p50=p50, generated_p90=p50 * spread
    )

    wait_s = look_in_s(gone_s, INTERVAL_S, guess_of(learnt))

    assert wait_s >= INTERVAL_S
    assert wait_s <= max(LONGEST_LOOK_S, p50 - gone_s) + INTERVAL_S


@given(
    median_s=st.floats(0.01, 1e5),
    spread=st.floats(LEAST_SPREAD, 3),
    gone_s=st.floats(0, 1e6),
    interval_s=st.floats(0.01, 600),
    jitter=st.floats(0, 1),
    percent=st.none() | st.integers(-5, 200),
)
def test_jitter_and_what_is_said_make_no_look_too_early(
    median_s: float,
    spread: float,
    gone_s: float,
    interval_s: float,
    jitter: float,
    percent: int | None,
) -> None:
    dice = random.Random(1)
    times_s = [median_s * math.exp(dice.gauss(0, min(spread, 1))) for _ in range(25)]
    experience = Experience()
    for time_s in times_s:
        trail = Trail(experience)
        trail.saw_running(time_s / 2, 50)
        trail.saw_running(time_s * 0.99, 99)
        trail.saw_ready(time_s)
    trail = Trail(experience)
    trail.saw_running(gone_s, percent)

    assert trail.look_in_s(gone_s, interval_s, None, jitter) >= interval_s


def test_a_guess_tells_how_late_a_video_is_found_by_expectation() -> None:
    guess, dice = Guess(median_s=MEDIAN_S, spread=SIGMA), random.Random(1)
    times_s = [time_s for time_s in (draw_s(dice) for _ in range(20_000)) if time_s > 50]
    late_s = statistics.fmean(max(70 - time_s, 0) for time_s in times_s)
    ready = sum(time_s <= 51 for time_s in times_s) / len(times_s)

    assert guess.late_s(50, 20) == pytest.approx(late_s, rel=0.05)
    assert guess.ready_per_s(50) == pytest.approx(ready, rel=0.1)


def test_a_process_learns_from_its_own_videos() -> None:
    dice = random.Random(1)

    guess = taught([draw_s(dice) for _ in range(200)]).guess(None)

    assert guess is not None
    assert guess.median_s == pytest.approx(MEDIAN_S, rel=0.1)
    assert guess.spread == pytest.approx(SIGMA, rel=0.35)


@pytest.mark.parametrize("time_s", [0.8, 58.0, 60.0, 61.5])
def test_of_videos_that_all_take_the_same_time_it_is_learnt(time_s: float) -> None:
    experience = Experience()
    for _ in range(40):
        trail = Trail(experience)
        trail.saw_running(time_s * 0.98, None)
        trail.saw_ready(time_s * 1.02)

    guess = experience.guess(None)

    assert guess is not None
    assert guess.median_s == pytest.approx(time_s, rel=0.06)
    assert guess.spread == LEAST_SPREAD


def test_a_few_videos_teach_nothing() -> None:
    assert taught([MEDIAN_S] * 19).guess(None) is None


def test_the_quick_ones_of_many_that_began_together_are_not_taken_for_all() -> None:
    dice, experience = random.Random(1), Experience()
    running = [(draw_s(dice), Trail(experience)) for _ in range(400)]
    for age_s in range(5, 50, 5):
        for time_s, trail in running:
            if time_s <= age_s:
                trail.saw_ready(age_s)
            else:
                trail.saw_running(age_s, None)

    assert 40 < experience.samples < 100
    # By their own, these would say that a video takes 40 seconds; nobody knows that of the others.
    assert experience.guess(None) is None
    told = experience.guess(replace(SPREAD, generated_p10=42, generated_p90=86))
    assert told is not None
    assert told.median_s == pytest.approx(MEDIAN_S, rel=0.1)


def test_videos_that_become_slower_are_noticed() -> None:
    dice = random.Random(1)
    experience = taught([draw_s(dice) for _ in range(500)])

    for _ in range(150):
        followed(experience, draw_s(dice, 2 * MEDIAN_S))

    guess = experience.guess(None)
    assert guess is not None
    assert guess.median_s > 1.6 * MEDIAN_S


def test_videos_that_become_quicker_are_noticed() -> None:
    dice = random.Random(1)
    experience = taught([draw_s(dice) for _ in range(500)])

    first_s = [followed(experience, draw_s(dice, MEDIAN_S / 4))[0] for _ in range(600)]

    assert first_s[0] > MEDIAN_S / 2
    assert first_s[-1] < MEDIAN_S / 4


def test_what_others_learnt_helps_until_much_was_seen_here() -> None:
    dice = random.Random(1)

    new = Experience().guess(SPREAD)
    old = taught([draw_s(dice, 10) for _ in range(300)]).guess(SPREAD)

    assert new is not None
    assert old is not None
    assert new.median_s == pytest.approx(SPREAD.generated_p50, rel=0.02)
    assert new.spread == pytest.approx(math.log(4) / 2.5631, rel=0.02)
    assert old.median_s < 15


def test_a_job_that_others_followed_before_teaches_only_what_was_seen_here() -> None:
    experience = Experience()
    unseen, seen = Trail(experience, None), Trail(experience, None)

    unseen.saw_ready(600)
    seen.saw_running(50, None)
    seen.saw_ready(55)
    seen.saw_ready(60)

    assert experience.samples == 1


def test_half_the_looks_find_videos_as_soon_though_times_drift() -> None:
    dice, experience = random.Random(1), Experience()
    planned, even, late_planned, late_even = 0, 0, 0.0, 0.0
    for number in range(2_000):
        ready_s = draw_s(dice, MEDIAN_S * (1 + number / 4_000))
        looked = followed(experience, ready_s)
        planned, late_planned = planned + len(looked), late_planned + looked[-1] - ready_s
        steps = math.ceil(ready_s / INTERVAL_S)
        even, late_even = even + steps, late_even + steps * INTERVAL_S - ready_s

    assert planned <= even * 0.52
    assert late_planned <= late_even * 1.15  # a look comes no sooner than an interval after another


def test_where_progress_tells_the_time_a_quarter_of_the_looks_find_videos_sooner() -> None:
    dice, looks, late_s, steps, late_even_s = random.Random(1), 0, 0.0, 0, 0.0
    experience = taught([draw_s(dice) for _ in range(200)], lambda share: share)
    for _ in range(500):
        ready_s = draw_s(dice)
        looked = followed(experience, ready_s, lambda share: share)
        looks, late_s = looks + len(looked), late_s + looked[-1] - ready_s
        even = math.ceil(ready_s / INTERVAL_S)
        steps, late_even_s = steps + even, late_even_s + even * INTERVAL_S - ready_s

    assert looks < steps / 4
    assert late_s < late_even_s * 0.8


@pytest.mark.parametrize(
    "told",
    [
        lambda share: share**0.3,
        lambda share: int(share * 4) / 4,
        lambda share: 0.99,
        lambda share: 0.3,
    ],
    ids=["slower and slower", "in quarters", "soon", "stands still"],
)
def test_progress_that_does_not_tell_the_time_makes_nothing_worse(
    told: Callable[[float], float],
) -> None:
    dice, silent, talking = random.Random(1), Experience(), Experience()
    late_s, late_silent_s, looks, looks_silent = 0.0, 0.0, 0, 0
    for _ in range(800):
        ready_s = draw_s(dice)
        found, found_silent = followed(talking, ready_s, told), followed(silent, ready_s)
        late_s, late_silent_s = late_s + found[-1], late_silent_s + found_silent[-1]
        looks, looks_silent = looks + len(found), looks_silent + len(found_silent)

    assert looks <= looks_silent * 1.1
    assert late_s <= late_silent_s * 1.01


def test_progress_that_stands_still_puts_off_no_look_for_long() -> None:
    dice = random.Random(1)
    experience = taught([draw_s(dice) for _ in range(300)], lambda share: share)
    trails = [Trail(experience) for _ in range(2)]  # one of ten is doubted, so not both

    waits_s = []
    for trail in trails:
        trail.saw_running(MEDIAN_S / 2, 20)
        trail.saw_running(3 * MEDIAN_S, 20)
        waits_s.append(trail.look_in_s(3 * MEDIAN_S, INTERVAL_S, None, jitter=0.5))

    assert INTERVAL_S < max(waits_s) <= LONGEST_LOOK_S


def test_progress_that_no_longer_tells_the_time_is_heeded_no_more() -> None:
    dice = random.Random(1)
    experience = taught([draw_s(dice) for _ in range(300)], lambda share: share)
    assert experience.keeps_promises()

    for _ in range(400):
        followed(experience, draw_s(dice), lambda share: share / 2)

    # It jumps from the half to the end: what it promises comes after all others are ready.
    late_s = [
        followed(experience, ready_s, lambda share: share / 2)[-1] - ready_s
        for ready_s in (draw_s(dice) for _ in range(200))
    ]
    assert statistics.fmean(late_s) < INTERVAL_S


def test_lists_come_as_often_as_videos_become_ready_within_bounds() -> None:
    few, some, many = 0.01, 0.4, 100.0

    assert list_in_s(few, 1, INTERVAL_S) == INTERVAL_S
    assert list_in_s(0.0, 1, INTERVAL_S) == INTERVAL_S
    assert list_in_s(some, 1, INTERVAL_S) == 1 / some
    assert list_in_s(many, 1, INTERVAL_S) == INTERVAL_S * LIST_SHARE
    assert list_in_s(many, 12, INTERVAL_S) == 3.0  # four pages a second
    assert list_in_s(many, 100, INTERVAL_S) == INTERVAL_S
