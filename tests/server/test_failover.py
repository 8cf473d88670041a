"""Fallbacks over HTTP: asked for, shown, refused."""

from typing import Any

import pytest

from tests.by_hand import Hand
from tests.server.conftest import Client
from vidgen import lifecycle
from vidgen.errors import ModelRetiredError
from vidgen.lifecycle import Backoff, Prospect
from vidgen.queue import VideoQueue

TRAM = {
    "provider": "sora",
    "prompt": "a tram in the rain",
    "seconds": 8,
    "size": "1280x720",
    "fallbacks": [{"provider": "veo", "model": "veo-3.1-lite-generate-001"}],
    "reroute_on": ["retired", "policy"],
    "max_cost_micros": 2_000_000,
}


async def test_a_move_is_told_with_the_job(admin: Client, queue: VideoQueue, hand: Hand) -> None:
    answer = await admin.post("/api/jobs", json=TRAM)
    assert answer.status == 201, await answer.text()
    made = await answer.json()
    job = await hand.claim((await queue.recent())[0])
    error = ModelRetiredError("gone")
    prospects = [Prospect(target=1)]
    backoff = Backoff(base_s=0)
    change = lifecycle.errored(job, error, backoff=backoff, now=job.created_at, prospects=prospects)
    await hand.write(job, change)

    shown = await (await admin.get(f"/api/jobs/{made['id']}")).json()

    assert (made["provider"], made["target"], made["reroute_on"]) == (
        "sora",
        0,
        ["retired", "policy"],
    )
    assert "target_parameters" not in made
    assert (shown["provider"], shown["model"], shown["target"]) == (
        "veo",
        "veo-3.1-lite-generate-001",
        1,
    )
    assert shown["target_parameters"][0]["size"] == "1280x720"
    told = shown["events"][-1]
    assert (told["type"], told["detail"]["reason"]) == ("rerouted", "retired")
    assert told["detail"]["from"]["provider"] == "sora"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fallbacks": [{"provider": "vimeo"}]}, "fallbacks[0] (vimeo): There is no provider"),
        ({"fallbacks": [{"provider": "veo", "mood": "calm"}]}, "fallbacks.0.mood"),
        ({"fallbacks": [{"model": "sora-2"}]}, "fallbacks.0.provider"),
        ({"reroute_on": ["ceiling"]}, "reroute_on has 'ceiling'"),
        ({"max_cost_micros": 0}, "max_cost_micros must be"),
        ({"max_cost_micros": 100}, "max_cost_micros allows $0.00; the cheapest"),
        ({"route": "none"}, "there is no route 'none'"),
        ({"provider": None}, "provider is missing"),
    ],
)
async def test_what_cannot_be_is_refused_in_words(
    admin: Client, change: dict[str, Any], sentence: str
) -> None:
    answer = await admin.post("/api/jobs", json=TRAM | change)

    assert answer.status == 400
    assert sentence in await answer.text()


async def test_the_routes_are_told_with_the_providers(admin: Client) -> None:
    told = await (await admin.get("/api/providers")).json()

    assert told["routes"] == []  # no file is named here
