"""Budgets and spend over HTTP: who may set them, what a refusal tells, and tables for people."""

from typing import Any

import pytest
from pydantic import SecretStr

from tests.by_hand import Hand
from tests.server.conftest import Client
from tests.server.test_api import problem
from tests.server.test_metrics import scraped
from vidgen.errors import ContentBlockedError
from vidgen.job import VideoRequest
from vidgen.queue import VideoQueue
from vidgen.settings import Settings

READER = "a-token-that-may-only-look"
REQUEST = VideoRequest(provider="sora", prompt="a tram in the rain", seconds=8)
PRICE = 800_000
DAY: dict[str, Any] = {"scope": "all", "period": "day", "limit_micros": 2 * PRICE}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"admin_tokens": SecretStr(f"guest:read:{READER}")})


async def put(client: Client, **budget: Any) -> list[dict[str, Any]]:
    answer = await client.put("/api/budgets", json=budget)
    assert answer.status == 200, await answer.text()
    told: list[dict[str, Any]] = (await answer.json())["budgets"]
    return told


async def test_a_budget_is_set_changed_and_removed_and_the_record_has_it(admin: Client) -> None:
    [made] = await put(admin, **DAY)
    [changed] = await put(admin, **DAY | {"limit_micros": PRICE})
    await put(admin, scope="user:ann", period="total", limit_micros=1)
    answer = await admin.delete("/api/budgets", params={"scope": "all", "period": "day"})

    assert (made["limit_micros"], changed["limit_micros"]) == (2 * PRICE, PRICE)
    assert (made["spent_micros"], made["reserved_micros"], made["by"]) == (0, 0, "admin")
    assert made["frees_at"] > f"{made['starts_on']}T23"
    assert [each["scope"] for each in (await answer.json())["budgets"]] == ["user:ann"]
    entries = (await (await admin.get("/api/audit")).json())["entries"]
    told = [(entry["action"], entry["target"]) for entry in entries]
    assert told == [("budget_remove", "all"), ("budget_set", "user")] + [("budget_set", "all")] * 2
    assert entries[1]["detail"]["user_id"] == "ann"  # where forgetting finds it


@pytest.mark.parametrize(
    "wish",
    [
        DAY | {"scope": "everything"},
        DAY | {"scope": "provider:nobody"},
        DAY | {"period": "week"},
        DAY | {"limit_micros": -1},
        DAY | {"limit_micros": "much"},
        {"scope": "all"},
    ],
)
async def test_what_is_no_budget_is_refused(admin: Client, wish: dict[str, Any]) -> None:
    assert (await admin.put("/api/budgets", json=wish)).status == 400
    assert (await (await admin.get("/api/budgets")).json())["budgets"] == []
    assert (await (await admin.get("/api/audit")).json())["entries"] == []


async def test_a_budget_that_is_not_there_cannot_be_removed(admin: Client) -> None:
    answer = await admin.delete("/api/budgets", params={"scope": "all", "period": "day"})

    assert await problem(answer) == (404, "budget_not_found")
    assert (await (await admin.get("/api/audit")).json())["entries"] == []


async def test_whoever_may_only_look_sets_nothing(stranger: Client) -> None:
    headers = {"Authorization": f"Bearer {READER}"}

    assert (await stranger.get("/api/budgets", headers=headers)).status == 200
    refused = await stranger.put("/api/budgets", json=DAY, headers=headers)
    assert await problem(refused) == (403, "forbidden")
    refused = await stranger.delete("/api/budgets", params=DAY, headers=headers)
    assert await problem(refused) == (403, "forbidden")


async def test_a_video_that_no_budget_bears_is_refused_with_how_it_stands(
    admin: Client, queue: VideoQueue
) -> None:
    await put(admin, **DAY)
    await queue.enqueue(REQUEST)
    video = {"provider": "sora", "prompt": "a tram", "seconds": 12}

    answer = await admin.post("/api/jobs", json=video)
    document = await answer.json()

    assert await problem(answer) == (402, "budget_exceeded")
    assert document["budget"] | {"frees_at": None} == {
        "scope": "all",
        "period": "day",
        "limit_micros": 2 * PRICE,
        "spent_micros": 0,
        "reserved_micros": PRICE,
        "wanted_micros": 1_200_000,
        "frees_at": None,
    }
    samples = await scraped(admin)
    labels = (("period", "day"), ("scope", "all"))
    assert samples["vidgen_budget_limit_dollars", labels] == 1.6
    assert samples["vidgen_budget_used_dollars", labels] == 0.8
    assert samples["vidgen_budgets_near", (("period", "day"),)] == 0
    refused = samples["vidgen_budget_refusals_total", (("code", "budget_exceeded"),)]
    assert refused >= 1


async def test_a_retry_that_no_budget_bears_is_refused_and_leaves_no_record(
    admin: Client, queue: VideoQueue, hand: Hand
) -> None:
    job = await hand.fail(await queue.enqueue(REQUEST), ContentBlockedError("no"))
    await put(admin, scope="all", period="total", limit_micros=1)

    for path in (f"/api/jobs/{job.id}/retry", "/api/failed/retry"):
        assert await problem(await admin.post(path, json={})) == (402, "budget_exceeded")

    entries = (await (await admin.get("/api/audit")).json())["entries"]
    assert [entry["action"] for entry in entries] == ["budget_set"]


async def test_spend_is_told_by_day_provider_model_and_user_and_as_a_table(
    admin: Client, queue: VideoQueue, hand: Hand
) -> None:
    await hand.carry(await queue.enqueue(REQUEST, user_id="=cmd()"))
    await hand.carry(await queue.enqueue(REQUEST))

    for by, key in (("provider", "sora"), ("model", "sora-2")):
        answer = await admin.get("/api/spend", params={"by": by})
        assert await answer.json() == {
            "by": by,
            "spend": [
                {
                    "key": key,
                    "payer": "server",
                    "charged_micros": 2 * PRICE,
                    "wasted_micros": 0,
                    "uncertain_micros": 0,
                    "jobs": 2,
                }
            ],
        }
    [today] = (await (await admin.get("/api/spend")).json())["spend"]
    later = {"from": f"{today['key']}T23:59:59.999Z", "to": "2999-01-01T00:00:00Z"}
    assert (await (await admin.get("/api/spend", params=later)).json())["spend"] == []
    table = await admin.get("/api/spend?by=user", headers={"Accept": "text/csv"})
    again = await admin.get("/api/spend?by=user&format=csv")
    assert table.content_type == "text/csv"
    assert await table.text() == await again.text()
    assert sorted((await table.text()).splitlines()) == [
        "'=cmd(),server,0.800000,0.000000,0.000000,1",
        ",server,0.800000,0.000000,0.000000,1",
        "key,payer,charged_usd,wasted_usd,uncertain_usd,jobs",
    ]
    assert await problem(await admin.get("/api/spend?by=moon")) == (400, "invalid_request")
