"""One clock among four that is wrong."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from tests.doctor.conftest import NOBODY, changed
from vidgen.doctor.clocks import clocks
from vidgen.doctor.finding import State
from vidgen.settings import Settings


def ahead(by: timedelta) -> Callable[[], datetime]:
    return lambda: datetime.now(UTC) + by


async def test_clocks_that_agree_are_well(well: Settings) -> None:
    finding = await clocks(well)

    assert finding.state is State.OK
    assert finding.sentence.endswith(" s of PostgreSQL, Redis and the bucket")


@pytest.mark.parametrize(
    ("by", "state", "words"),
    [
        (timedelta(hours=1), State.PROBLEM, "60 min ahead of "),
        (timedelta(hours=-1), State.PROBLEM, "60 min behind "),
        (timedelta(seconds=30), State.WARNING, " s ahead of "),
    ],
    ids=["an hour ahead", "an hour behind", "half a minute ahead"],
)
async def test_a_machine_whose_clock_is_wrong_is_told_how_far(
    well: Settings, by: timedelta, state: State, words: str
) -> None:
    finding = await clocks(well, now=ahead(by))

    assert finding.state is state
    for server in ("PostgreSQL", "Redis", "the bucket"):
        assert f"{words}{server}" in finding.sentence
    assert finding.remedy.startswith("set the clock of this machine")


async def test_a_wrong_key_does_not_keep_the_bucket_from_telling_the_time(well: Settings) -> None:
    finding = await clocks(changed(well, aws_secret_access_key=SecretStr("another")))

    assert finding.state is State.OK
    assert "the bucket" in finding.sentence


async def test_servers_that_are_away_are_named_and_the_others_compared(well: Settings) -> None:
    one_away = changed(well, redis_url=f"redis://{NOBODY}/0")
    all_away = changed(
        one_away,
        database_url=f"postgresql://vidgen@{NOBODY}/none",
        s3_endpoint_url=f"http://{NOBODY}",
    )

    one, none = await clocks(one_away), await clocks(all_away)

    assert one.state is State.OK
    assert one.sentence.endswith(" s of PostgreSQL and the bucket; Redis told no time")
    assert (none.state, none.sentence) == (State.WARNING, "no server told its time")
