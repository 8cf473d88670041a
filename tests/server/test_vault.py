"""Keys that users bring, over HTTP: in once, and never out again."""

import base64
from typing import Any
from uuid import uuid4

import pytest
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from tests.by_hand import Hand
from tests.server.conftest import Client
from tests.server.test_api import actions, problem
from vidgen import keys as bring
from vidgen import lifecycle
from vidgen.errors import KeyUnreadableError
from vidgen.job import VideoRequest
from vidgen.queue import VideoQueue
from vidgen.resources import Resources
from vidgen.server.app import build
from vidgen.settings import Settings
from vidgen.vault import Vault, key_id

OLD, NEW, FOREIGN = (bytes([number]) * 32 for number in (1, 2, 3))
KEY = "sk-planted-by-alice-9876"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    ring = ",".join(base64.b64encode(key).decode() for key in (NEW, OLD))
    return settings.model_copy(update={"encryption_keys": SecretStr(ring)})


async def added(client: Client, **changes: Any) -> dict[str, Any]:
    answer = await client.post(
        "/api/keys", json={"user_id": "alice", "provider": "sora", "key": KEY} | changes
    )
    assert answer.status == 201, await answer.text()
    document: dict[str, Any] = await answer.json()
    return document


async def sealed(resources: Resources, count: int, *ring: bytes) -> None:
    async with resources.database.connection() as connection:
        for number in range(count):
            given = bring.check("sora", f"sk-of-user-{number}")
            await bring.add(connection, Vault(ring), f"user-{number}", given)


async def looked(client: Client, path: str) -> dict[str, Any]:
    answer = await client.get(path)
    assert answer.status == 200, await answer.text()
    document: dict[str, Any] = await answer.json()
    return document


async def test_a_key_goes_in_and_only_its_hint_comes_out(admin: Client) -> None:
    made = await added(admin)

    [listed] = (await looked(admin, "/api/keys?user_id=alice&provider=sora"))["keys"]

    assert (made["hint"], made["replaced"], made["api"]) == ("9876", None, "openai")
    assert (listed["id"], listed["hint"], listed["readable"]) == (made["id"], "9876", True)
    assert listed["key_id"] == key_id(NEW).hex()
    assert (listed["jobs"], listed["removed_at"]) == (0, None)
    assert KEY not in str((made, listed, await looked(admin, "/api/audit")))
    assert await actions(admin) == ["key_add"]


async def test_a_second_key_replaces_the_first(admin: Client) -> None:
    first = await added(admin)

    second = await added(admin, key="sk-the-second-of-alice")

    assert second["replaced"] == first["id"]
    [listed] = (await looked(admin, "/api/keys"))["keys"]
    assert listed["id"] == second["id"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"provider": "acme"}, "unknown_provider"),
        ({"key": f"{KEY} and more"}, "invalid_request"),
        ({"key": f"{KEY}\r\nX-Other: 1"}, "invalid_request"),
        ({"key": KEY * 1000}, "invalid_request"),
        ({"key": 7}, "invalid_request"),
        ({"user_id": ""}, "invalid_request"),
        ({"user_id": "a\0b"}, "invalid_request"),
        ({"sekret": KEY}, "invalid_request"),
        ({"provider": "veo", "key": '{"type": "service_account", "x": "' + KEY + '"}'}, None),
    ],
)
async def test_what_is_no_key_is_refused_without_repeating_it(
    admin: Client, changes: dict[str, Any], code: str | None
) -> None:
    answer = await admin.post(
        "/api/keys", json={"user_id": "alice", "provider": "sora", "key": KEY} | changes
    )

    assert await problem(answer) == (400, code or "invalid_request")
    assert "planted" not in await answer.text()
    assert await actions(admin) == []


async def test_a_body_that_is_no_json_is_not_repeated(admin: Client) -> None:
    answer = await admin.post(
        "/api/keys",
        data=b'{"key": "' + KEY.encode(),
        headers={"Content-Type": "application/json"},
    )

    assert await problem(answer) == (400, "invalid_request")
    assert "planted" not in await answer.text()


async def test_without_an_encryption_key_nothing_is_stored(resources: Resources) -> None:
    object.__setattr__(resources, "vault", Vault())
    headers = {"Authorization": "Bearer a-token-for-the-tests"}
    async with TestClient(TestServer(build(resources)), headers=headers) as client:
        answer = await client.post(
            "/api/keys", json={"user_id": "alice", "provider": "sora", "key": KEY}
        )

        assert await problem(answer) == (409, "no_encryption_key")
        assert await actions(client) == []


async def test_a_removal_says_who_still_needs_the_key(
    admin: Client, hand: Hand, queue: VideoQueue
) -> None:
    made = await added(admin)
    request = VideoRequest(provider="sora", prompt="a tram in the rain")
    job = await hand.claim(await queue.enqueue(request, user_id="alice"))
    await hand.write(job, lifecycle.submitting(job, made["id"]))

    removed = await admin.post(f"/api/keys/{made['id']}/remove")
    again = await admin.post(f"/api/keys/{made['id']}/remove")
    [listed] = (await looked(admin, "/api/keys"))["keys"]

    assert await removed.json() == {"id": made["id"], "jobs": 1, "deleted": False}
    assert await problem(again) == (404, "key_not_found")
    assert listed["removed_at"] is not None
    assert listed["jobs"] == 1
    assert await actions(admin) == ["key_remove", "key_add"]


async def test_a_key_that_nobody_needs_is_gone_at_once(admin: Client) -> None:
    made = await added(admin)

    removed = await (await admin.post(f"/api/keys/{made['id']}/remove")).json()

    assert removed["deleted"] is True
    assert (await looked(admin, "/api/keys"))["keys"] == []
    assert await problem(await admin.post(f"/api/keys/{uuid4()}/remove")) == (404, "key_not_found")
    assert await problem(await admin.post("/api/keys/x/remove")) == (400, "invalid_request")


async def test_keys_are_listed_in_pages(admin: Client, resources: Resources) -> None:
    await sealed(resources, 5, NEW)

    first = await looked(admin, "/api/keys?limit=3")
    rest = await looked(admin, f"/api/keys?limit=3&before={first['next']}")

    users = [key["user_id"] for key in first["keys"] + rest["keys"]]
    assert users == [f"user-{number}" for number in (4, 3, 2, 1, 0)]
    assert rest["next"] is None


async def test_a_rotation_goes_on_from_answer_to_answer_until_it_ends(
    admin: Client, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring, "BATCH", 10)
    await sealed(resources, 450, OLD)
    before = await looked(admin, "/api/keys/rotation")

    steps: list[dict[str, Any]] = []
    after: str | None = None
    while not steps or after is not None:
        answer = await admin.post("/api/keys/rotate", json={"after": after, "limit": 200})
        steps.append(await answer.json())
        after = steps[-1]["next"]

    old, new = key_id(OLD).hex(), key_id(NEW).hex()
    assert before["keys"] == [_under(old, keys=450, newest=False)]
    assert before["left"] == 450
    assert [(step["resealed"], step["left"]) for step in steps] == [(200, 250), (200, 50), (50, 0)]
    assert (await looked(admin, "/api/keys/rotation"))["keys"] == [
        _under(new, keys=450, newest=True)
    ]
    assert await actions(admin) == ["key_rotate"]


def _under(key_id: str, **told: Any) -> dict[str, Any]:
    return {"key_id": key_id, "keys": 0, "prompts": 0, "readable": True} | told


async def test_a_rotation_is_through_when_the_prompts_are_sealed_anew_as_well(
    admin: Client, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bring, "BATCH", 200)
    await sealed(resources, 3, OLD)
    ring = SecretStr(base64.b64encode(OLD).decode())
    old_ring = resources.settings.model_copy(
        update={"encryption_keys": ring, "encrypt_prompts": True}
    )
    async with VideoQueue(old_ring) as asking:
        wishes = [VideoRequest(provider="sora", prompt=f"tram {number}") for number in range(450)]
        jobs = await asking.enqueue_many(wishes)

    steps: list[dict[str, Any]] = []
    after: str | None = None
    while not steps or after is not None:
        answer = await admin.post("/api/keys/rotate", json={"after": after, "limit": 200})
        steps.append(await answer.json())
        after = steps[-1]["next"]

    assert [(step["resealed"], step["left"]) for step in steps] == [
        (3, 450),
        (200, 250),
        (200, 50),
        (50, 0),
    ]
    assert steps[-1]["keys"] == [_under(key_id(NEW).hex(), keys=3, prompts=450, newest=True)]
    assert (await looked(admin, f"/api/jobs/{jobs[7].id}"))["prompt"] == "tram 7"


async def test_a_prompt_that_does_not_open_here_is_null(
    admin: Client, resources: Resources
) -> None:
    ring = SecretStr(base64.b64encode(FOREIGN).decode())
    foreign = resources.settings.model_copy(
        update={"encryption_keys": ring, "encrypt_prompts": True}
    )
    async with VideoQueue(foreign) as asking:
        job = await asking.enqueue(VideoRequest(provider="sora", prompt="a tram"))

    [listed] = (await looked(admin, "/api/jobs"))["jobs"]
    shown = await looked(admin, f"/api/jobs/{job.id}")

    assert (listed["prompt"], shown["prompt"]) == (None, None)
    assert "sealed" not in listed | shown


async def test_keys_that_do_not_open_here_are_told_by_the_queue(
    admin: Client, resources: Resources, hand: Hand, queue: VideoQueue
) -> None:
    await sealed(resources, 3, FOREIGN)
    job = await hand.claim(
        await queue.enqueue(VideoRequest(provider="sora", prompt="a tram in the rain"))
    )
    await hand.write(job, lifecycle.parked(job, KeyUnreadableError("no"), wait_s=300))

    issues = (await looked(admin, "/api/queue"))["issues"]
    old = (await looked(admin, "/api/admin/queue"))["health"]["issues"]
    progress = await looked(admin, "/api/keys/rotation")
    [*listed] = (await looked(admin, "/api/keys"))["keys"]

    assert issues == old
    assert any(each.startswith("1 jobs wait because their provider key") for each in issues)
    assert any(
        f"3 provider keys are sealed under the encryption key {key_id(FOREIGN).hex()}" in each
        for each in issues
    )
    assert (progress["left"], progress["unreadable"]) == (0, 3)
    assert {key["readable"] for key in listed} == {False}


async def test_whoever_may_only_look_may_not_touch_keys(resources: Resources) -> None:
    reader = "a-token-that-only-reads"
    changed = resources.settings.model_copy(
        update={"admin_tokens": SecretStr(f"grafana:read:{reader}")}
    )
    object.__setattr__(resources, "settings", changed)
    headers = {"Authorization": f"Bearer {reader}"}
    async with TestClient(TestServer(build(resources)), headers=headers) as client:
        for path in ("/api/keys", f"/api/keys/{uuid4()}/remove", "/api/keys/rotate"):
            assert (await client.post(path, json={})).status == 403
        assert (await client.get("/api/keys")).status == 200
