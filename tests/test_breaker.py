"""A provider that does not answer is left alone for a while."""

from vidgen.breaker import (
    FAILURES_TO_OPEN,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    PROBE_S,
    Breakers,
)


def an_open_one(now: float = 0.0) -> Breakers:
    breakers = Breakers()
    for _ in range(FAILURES_TO_OPEN):
        breakers.failed("sora", "server", now)
    return breakers


def test_it_opens_after_failures_in_a_row_only() -> None:
    breakers = Breakers()
    for _ in range(FAILURES_TO_OPEN - 1):
        assert breakers.failed("sora", "server", 0) == 0
    breakers.answered("sora", "server")
    breakers.failed("sora", "server", 0)

    assert breakers.wait_s("sora", "server", 0) == 0


def test_an_open_one_holds_submits_back_and_no_other_provider_s() -> None:
    breakers = an_open_one()

    assert breakers.wait_s("sora", "server", 1) == FIRST_PAUSE_S - 1
    assert breakers.wait_s("sora", "another", 1) == 0
    assert breakers.wait_s("veo", "server", 1) == 0


def test_after_the_pause_one_probe_goes_and_the_others_wait_for_it() -> None:
    breakers = an_open_one()

    assert breakers.wait_s("sora", "server", FIRST_PAUSE_S) == 0
    assert breakers.wait_s("sora", "server", FIRST_PAUSE_S) == PROBE_S


def test_a_probe_that_is_answered_closes_it() -> None:
    breakers = an_open_one()
    breakers.wait_s("sora", "server", FIRST_PAUSE_S)

    assert breakers.answered("sora", "server")
    assert breakers.wait_s("sora", "server", FIRST_PAUSE_S) == 0


def test_a_probe_that_fails_doubles_the_pause_up_to_a_limit() -> None:
    breakers, now, pauses = an_open_one(), 0.0, [FIRST_PAUSE_S]
    for _ in range(8):
        now += pauses[-1]
        breakers.wait_s("sora", "server", now)
        pauses.append(breakers.failed("sora", "server", now))

    assert pauses[1] == FIRST_PAUSE_S * 2
    assert pauses[-1] == LONGEST_PAUSE_S
