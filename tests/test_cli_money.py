"""`vidgen budgets` and `vidgen spend`."""

from tests.by_hand import Hand
from tests.test_cli import Program, audited, queue, vidgen
from vidgen.job import VideoRequest
from vidgen.queue import VideoQueue

__all__ = ["queue", "vidgen"]

REQUEST = VideoRequest(provider="sora", prompt="a tram in the rain", seconds=8)


async def test_a_budget_is_set_holds_is_listed_and_removed(
    vidgen: Program, queue: VideoQueue
) -> None:
    made = await vidgen("budgets", "set", "all", "day", "1.50", "--json")
    await queue.enqueue(REQUEST)

    refused = await vidgen("submit", "a tram", "--provider", "sora", "--seconds", "8")
    told = await vidgen("budgets", "list")
    removed = await vidgen("budgets", "remove", "all", "day", "--json")
    again = await vidgen("budgets", "remove", "all", "day")

    assert [each["limit_micros"] for each in made.document["budgets"]] == [1_500_000]
    assert refused.code == 1
    assert "error [budget_exceeded]: The budget of all videos, $1.50 a day" in refused.err
    assert told.out.splitlines()[1].startswith("all\tday\t$1.50\t$0.00\t$0.80\t53 %\t")
    assert removed.document == {"budgets": []}
    assert (again.code, "budget_not_found" in again.err) == (1, True)
    actions = [entry["action"] for entry in await audited(vidgen)]
    assert (actions[0], actions[-1]) == ("budget_remove", "budget_set")


async def test_what_is_no_budget_is_refused(vidgen: Program) -> None:
    for words in (("all", "week", "1"), ("everything", "day", "1"), ("all", "day", "-1")):
        said = await vidgen("budgets", "set", *words[:2], "--", words[2])
        assert (said.code, "invalid_request" in said.err) == (1, True), said
    said = await vidgen("budgets", "set", "all", "day", "much")
    assert (said.code, "no amount" in said.err) == (2, True)
    assert await audited(vidgen) == []


async def test_spend_is_told_as_lines_json_and_csv(vidgen: Program, queue: VideoQueue) -> None:
    await Hand(queue).carry(await queue.enqueue(REQUEST, user_id="ann"))

    lines = await vidgen("spend", "--by", "user")
    document = await vidgen("spend", "--by", "model", "--json")
    table = await vidgen("spend", "--by", "provider", "--csv", "--from", "2020-01-01")

    assert lines.out.splitlines()[1] == "ann\tserver\t$0.80\t$0.00\t$0.00\t1"
    assert document.document["spend"][0]["charged_micros"] == 800_000
    assert table.out.splitlines() == [
        "key,payer,charged_usd,wasted_usd,uncertain_usd,jobs",
        "sora,server,0.800000,0.000000,0.000000,1",
    ]
