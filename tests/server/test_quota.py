"""So many a minute, and no more memory than so many callers take."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidgen.server import quota
from vidgen.server.quota import Quota


def taken(allowed: Quota, caller: str, now: float, tries: int) -> int:
    return sum(allowed.wait_s(caller, now) == 0 for _ in range(tries))


def test_a_minute_s_requests_may_come_at_once_and_then_at_their_pace() -> None:
    allowed = Quota(60)

    assert taken(allowed, "a", 1000.0, 100) == 60
    assert allowed.wait_s("a", 1000.0) == pytest.approx(1.0)
    assert taken(allowed, "a", 1010.0, 100) == 10
    assert taken(allowed, "a", 2000.0, 100) == 60


def test_whoever_waits_as_long_as_told_may_go_on() -> None:
    allowed = Quota(7)
    now = 0.0
    taken(allowed, "a", now, 7)

    for _ in range(20):
        now += allowed.wait_s("a", now) + 1e-6
        assert allowed.wait_s("a", now) == 0


def test_callers_do_not_share() -> None:
    allowed = Quota(1)

    assert (taken(allowed, "a", 0.0, 5), taken(allowed, "b", 0.0, 5)) == (1, 1)


def test_zero_is_no_limit() -> None:
    assert taken(Quota(0), "a", 0.0, 10_000) == 10_000


@given(st.integers(1, 500), st.lists(st.floats(0, 30), max_size=200))
def test_never_more_than_two_minutes_worth_comes_in_a_minute(
    limit: int, pauses: list[float]
) -> None:
    allowed, now = Quota(limit), 0.0
    through: list[float] = []
    for pause in pauses:
        now += pause
        if allowed.wait_s("a", now) == 0:
            through.append(now)

    for begin in through:
        within = [at for at in through if begin <= at < begin + quota.WINDOW_S]
        assert len(within) <= 2 * limit


def test_a_million_callers_are_not_all_remembered() -> None:
    allowed = Quota(10)
    taken(allowed, "busy", 0.0, 10)

    tracemalloc.start()
    try:
        for number in range(200_000):
            allowed.wait_s(f"2001:db8:{number:x}::/64", 0.0)
            if number % 5000 == 0:
                assert allowed.wait_s("busy", 0.0) > 0  # who goes on asking is not forgotten
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(allowed) == quota.MAX_REMEMBERED
    assert peak < 8 * 1024 * 1024
