"""Webhooks on their way to real receivers: friendly, slow, rude and hostile ones."""

import asyncio
import json
import socket
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from aiohttp import web
from nacl.signing import SigningKey
from pydantic import SecretStr

from tests.proxy import Proxy, proxy_of
from tests.receiver import SECRET, Answer, Receiver, receiving
from tests.store.conftest import completed
from vidgen.document import job_document
from vidgen.errors import InvalidRequestError
from vidgen.job import VideoJob, VideoRequest
from vidgen.pipeline import deliver
from vidgen.pipeline.deliver import Deliverer
from vidgen.queue import VideoQueue
from vidgen.resources import Resources
from vidgen.store import deliveries
from vidgen.store.deliveries import Delivery, DeliveryState
from vidgen.store.pool import Database

NEWER = f"whsec_{b64encode(bytes(range(24))).decode()}"
SIGNING_KEY = SigningKey(bytes(range(32)))
ED25519 = f"whsk_{b64encode(bytes(SIGNING_KEY)).decode()}"
PATIENCE_S = 15
VIDEO = VideoRequest(provider="sora", prompt="a secret tram", seconds=4)
A_DATE = "a date 100 s from now"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same schedule, ten thousand times as fast."""
    monkeypatch.setattr(deliver, "SCHEDULE_S", tuple(wait / 1e4 for wait in deliver.SCHEDULE_S))
    monkeypatch.setattr(deliver, "LOOK_INTERVAL_S", 0.02)
    monkeypatch.setattr(deliver, "SHORTEST_INTERVAL_S", 0.001)
    monkeypatch.setattr(deliver, "UNSIGNED_INTERVAL_S", 0.02)


def signing(resources: Resources, secrets: str | None = SECRET, **changes: Any) -> Resources:
    changes["webhook_secrets"] = None if secrets is None else SecretStr(secrets)
    return replace(resources, settings=resources.settings.model_copy(update=changes))


@asynccontextmanager
async def delivering(resources: Resources) -> AsyncIterator[Deliverer]:
    async with asyncio.TaskGroup() as group:
        deliverer = Deliverer(resources)
        group.create_task(deliverer.run())
        try:
            yield deliverer
        finally:
            deliverer.stop()


async def ended(resources: Resources, url: str, **changes: Any) -> tuple[VideoJob, Delivery]:
    """A job that has just been completed, and its webhook."""
    async with resources.database.connection() as connection:
        job = await completed(connection, webhook_url=url, **changes)
        [delivery] = await deliveries.recent(connection, job_id=job.id)
    return job, delivery


async def when(
    resources: Resources, delivery: Delivery, holds: Callable[[Delivery], bool]
) -> Delivery:
    """The delivery once *holds* holds for it."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            async with resources.database.connection() as connection:
                found = await deliveries.get(connection, delivery.id)
            assert found is not None
            if holds(found):
                return found
            await asyncio.sleep(0.005)


async def when_over(resources: Resources, delivery: Delivery) -> Delivery:
    return await when(resources, delivery, lambda found: found.state is not DeliveryState.PENDING)


# --- what is sent ---


async def test_a_receiver_is_told_how_its_job_ended(
    resources: Resources, receiver: Receiver
) -> None:
    job, delivery = await ended(
        resources, receiver.url, prompt="a secret tram", metadata={"order": 7}
    )

    async with delivering(signing(resources)):
        [call] = await receiver.called()
        done = await when_over(resources, delivery)

    event = call.event()
    assert event["type"] == "video.completed"
    assert event["data"] == json.loads(json.dumps(job_document(job)))
    assert event["data"]["metadata"] == {"order": 7}
    at = datetime.fromisoformat(event["timestamp"])
    assert abs(at - delivery.created_at) < timedelta(milliseconds=1)
    assert call.id == str(delivery.id)
    assert call.headers["Content-Type"] == "application/json"
    assert b"secret" not in call.body
    assert (done.state, done.attempts, done.last_status) == ("delivered", 1, 204)


async def test_receivers_with_either_secret_find_the_signature_right(
    resources: Resources, receiver: Receiver
) -> None:
    await ended(resources, receiver.url)

    async with delivering(signing(resources, f"{NEWER},{SECRET}")):
        [call] = await receiver.called()

    assert call.event(SECRET) == call.event(NEWER)


async def test_a_receiver_with_the_public_key_finds_the_signature_right(
    resources: Resources, receiver: Receiver
) -> None:
    await ended(resources, receiver.url)

    async with delivering(signing(resources, ED25519)):
        [call] = await receiver.called()

    scheme, _, signature = call.headers["webhook-signature"].partition(",")
    content = f"{call.id}.{call.headers['webhook-timestamp']}.".encode() + call.body
    assert scheme == "v1a"
    SIGNING_KEY.verify_key.verify(content, b64decode(signature))


async def test_without_a_secret_nothing_is_sent_and_the_row_says_why(
    resources: Resources, receiver: Receiver
) -> None:
    _, delivery = await ended(resources, receiver.url)

    async with delivering(signing(resources, None)):
        waiting = await when(resources, delivery, lambda found: found.last_error is not None)

    assert "VIDGEN_WEBHOOK_SECRETS is not set" in (waiting.last_error or "")
    assert (waiting.state, waiting.attempts, receiver.calls) == ("pending", 0, [])

    async with delivering(signing(resources)):
        await receiver.called()
        done = await when_over(resources, delivery)

    assert (done.state, done.last_error) == ("delivered", None)


async def test_no_cookie_and_no_proxy_come_between(
    resources: Resources, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    receiver.answers(204, Set_Cookie="a=b")

    async with delivering(signing(resources)):
        await ended(resources, receiver.url)
        await receiver.called(1)
        await ended(resources, receiver.url)
        calls = await receiver.called(2)

    assert "Cookie" not in calls[1].headers


# --- trying again ---


async def test_what_is_refused_comes_again_with_the_same_id_and_body(
    resources: Resources, receiver: Receiver
) -> None:
    receiver.answers(500, 404, 204)
    _, delivery = await ended(resources, receiver.url)

    async with delivering(signing(resources)):
        calls = await receiver.called(3)
        done = await when_over(resources, delivery)

    assert {call.id for call in calls} == {str(delivery.id)}
    assert len({call.body for call in calls}) == 1
    assert [call.event()["type"] for call in calls] == ["video.completed"] * 3
    assert (done.state, done.attempts, done.last_error) == ("delivered", 3, None)


async def test_after_the_last_try_it_is_given_up_until_somebody_replays_it(
    resources: Resources, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "SCHEDULE_S", (0.001,) * 9)
    receiver.answers(500)
    _, delivery = await ended(resources, receiver.url)

    async with delivering(signing(resources)):
        given_up = await when_over(resources, delivery)
        receiver.answers(204)
        async with resources.database.connection() as connection:
            await deliveries.replay(connection, delivery.id)
        done = await when_over(resources, delivery)

    assert (given_up.state, given_up.attempts, given_up.last_status) == ("failed", 10, 500)
    assert given_up.last_error == "The receiver answered 500."
    assert done.state == "delivered"
    assert {call.id for call in receiver.calls} == {str(delivery.id)}


async def test_the_waits_are_those_of_the_specification(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    _, delivery = await ended(resources, "https://me.test/")
    refused = deliver._Answer(status=500)

    waits = [
        [deliver._judged(replace(delivery, attempts=number), refused, jitter) for jitter in (0, 1)]
        for number in range(1, 11)
    ]

    spec = [5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400]
    assert [low.wait_s for low, _ in waits[:9]] == pytest.approx([0.9 * wait for wait in spec])
    assert [high.wait_s for _, high in waits[:9]] == pytest.approx([1.1 * wait for wait in spec])
    assert [outcome.state for outcome in waits[9]] == [DeliveryState.FAILED] * 2


@pytest.mark.parametrize(
    ("status", "wish", "at_least_s", "at_most_s"),
    [
        (429, "30", 30, 30),
        (503, "30", 30, 30),
        (429, A_DATE, 60, 100),
        (429, "1", 5, 5),  # never sooner than the schedule
        (429, "100000000", 3600, 3600),
        (429, "-1", 5, 5),
        (429, "soon", 5, 5),
        (500, "30", 5, 5),
    ],
)
async def test_a_receiver_that_asks_for_time_gets_it_within_bounds(
    resources: Resources,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    wish: str,
    at_least_s: float,
    at_most_s: float,
) -> None:
    if wish == A_DATE:
        wish = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)

    monkeypatch.setattr(deliver, "SCHEDULE_S", (5,) * 9)
    receiver.answers(status, Retry_After=wish)
    _, delivery = await ended(resources, receiver.url)

    async with delivering(replace(signing(resources), jitter=lambda: 0.5)):
        refused = await when(resources, delivery, lambda found: found.last_status == status)

    assert refused.next_at is not None
    since = refused.next_at - delivery.created_at
    assert at_least_s <= since.total_seconds() <= at_most_s + 3


async def test_a_receiver_that_says_gone_is_left_alone(
    resources: Resources, receiver: Receiver
) -> None:
    receiver.answers(410)
    _, delivery = await ended(resources, receiver.url)

    async with delivering(signing(resources)):
        done = await when_over(resources, delivery)

    assert (done.state, done.last_status, len(receiver.calls)) == ("gone", 410, 1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_refusal_and_not_followed(
    resources: Resources, receiver: Receiver, status: int
) -> None:
    async with receiving() as elsewhere:
        receiver.answers(status, Location=elsewhere.url)
        _, delivery = await ended(resources, receiver.url)

        async with delivering(signing(resources)):
            refused = await when(resources, delivery, lambda found: found.last_status == status)

        assert "redirects are not followed" in (refused.last_error or "")
        assert elsewhere.calls == []


async def test_a_receiver_that_is_not_there_is_tried_again(
    resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "SCHEDULE_S", (60,) * 9)
    _, delivery = await ended(resources, "http://127.0.0.1:1/hook?token=secret")

    async with delivering(signing(resources)):
        refused = await when(resources, delivery, lambda found: found.last_error is not None)

    assert refused.last_error == "The receiver could not be reached (ClientConnectorError)."
    assert (refused.state, refused.last_status) == ("pending", None)


async def test_one_that_cannot_be_made_ends_no_other(
    resources: Resources, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, broken), (_, sound) = (
        await ended(resources, receiver.url),
        await ended(resources, receiver.url),
    )
    make = deliver.body_of

    def make_all_but_one(delivery: Delivery) -> bytes:
        if delivery.id == broken.id:
            raise KeyError(delivery.type)
        return make(delivery)

    monkeypatch.setattr(deliver, "body_of", make_all_but_one)
    async with delivering(signing(resources)):
        delivered = await when_over(resources, sound)
        refused = await when(resources, broken, lambda found: found.last_error is not None)

    assert delivered.state is DeliveryState.DELIVERED
    assert refused.last_error == "It could not be made; the worker's log says why."


# --- rude receivers ---


async def test_a_silent_receiver_is_waited_for_no_longer_than_promised(
    resources: Resources, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(deliver, "SCHEDULE_S", (60,) * 9)

    async def answer(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    receiver.answer = answer
    _, delivery = await ended(resources, receiver.url)

    async with delivering(signing(resources)):
        refused = await when(resources, delivery, lambda found: found.last_error is not None)

    assert refused.last_error == "No answer came within 0.2 s."


async def test_an_endless_answer_is_not_read(resources: Resources, receiver: Receiver) -> None:
    sent = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(ConnectionError):
            while True:
                await response.write(b"x" * 65_536)
                sent += 65_536
        return response

    receiver.answer = answer
    _, delivery = await ended(resources, receiver.url)

    async with delivering(signing(resources)):
        done = await when_over(resources, delivery)

    assert done.state == "delivered"
    assert sent < 20 * 1024 * 1024  # what the kernel takes at most before the connection closes


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
    ],
)
async def test_an_answer_nobody_can_read_is_a_refusal(
    resources: Resources, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(deliver, "SCHEDULE_S", (60,) * 9)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        _, delivery = await ended(resources, f"http://127.0.0.1:{port}/")

        async with delivering(signing(resources)):
            refused = await when(resources, delivery, lambda found: found.last_error is not None)

    assert (refused.state, refused.attempts) == ("pending", 1)


async def test_a_slow_receiver_holds_up_nobody_else(
    resources: Resources, receiver: Receiver
) -> None:
    let_go = asyncio.Event()
    at_once, most = 0, 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await let_go.wait()
        at_once -= 1
        return web.Response()

    receiver.answer = answer
    slow = [(await ended(resources, receiver.url))[1] for _ in range(40)]
    async with receiving() as quick_one:
        _, other = await ended(resources, quick_one.url)

        async with delivering(signing(resources)):
            done = await when_over(resources, other)
            assert (await deliveries_of(resources, DeliveryState.PENDING)) == 40
            let_go.set()
            for delivery in slow:
                await when_over(resources, delivery)

    assert done.state == "delivered"
    assert most == deliver.MAX_SENDING_PER_HOST


async def deliveries_of(resources: Resources, state: DeliveryState) -> int:
    async with resources.database.connection() as connection:
        return len(await deliveries.recent(connection, state=state, limit=1000))


# --- when something dies ---


async def test_no_connection_to_postgresql_is_held_while_sending(
    resources: Resources, receiver: Receiver
) -> None:
    let_go = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        await let_go.wait()
        return web.Response()

    receiver.answer = answer
    async with Database(resources.settings.database_url, size=1) as database:
        narrow = replace(signing(resources), database=database)
        _, delivery = await ended(resources, receiver.url)
        async with delivering(narrow):
            await receiver.called()
            async with asyncio.timeout(5), database.connection() as connection:
                assert await connection.fetchval("SELECT 1") == 1
            let_go.set()
            assert (await when_over(resources, delivery)).state == "delivered"


async def test_a_result_that_cannot_be_written_is_written_later(
    resources: Resources, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "SETTLE_WAITS_S", (0.05,) * 50)
    port = _port_of(resources.settings.database_url)
    async with proxy_of(port) as proxy:
        dsn = resources.settings.database_url.replace(f":{port}/", f":{proxy.port}/")
        async with Database(dsn, size=2) as database:
            _, delivery = await ended(resources, receiver.url)
            receiver.answer = _cutting(proxy)
            async with delivering(replace(signing(resources), database=database)):
                await receiver.called()
                await asyncio.sleep(0.1)  # a few tries in vain
                await proxy.restore()
                done = await when_over(resources, delivery)

    assert (done.state, done.attempts, len(receiver.calls)) == ("delivered", 1, 1)


async def test_a_worker_that_dies_before_the_result_is_written_has_it_sent_again(
    resources: Resources, receiver: Receiver
) -> None:
    _, delivery = await ended(resources, receiver.url)
    arrived = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        arrived.set()
        await asyncio.Event().wait()
        raise AssertionError

    receiver.answer = answer
    async with asyncio.TaskGroup() as group:
        life = group.create_task(Deliverer(signing(resources)).run())
        await arrived.wait()
        life.cancel()  # nothing is written any more, as by SIGKILL

    receiver.answers(204)
    await let_the_lease_run_out(resources, delivery)
    async with delivering(signing(resources)):
        done = await when_over(resources, delivery)

    assert [call.id for call in receiver.calls] == [str(delivery.id)] * 2
    assert (done.state, done.attempts) == ("delivered", 2)


async def test_one_that_kills_every_worker_is_given_up_in_the_end(
    resources: Resources, receiver: Receiver
) -> None:
    _, delivery = await ended(resources, receiver.url)
    async with resources.database.connection() as connection:
        await connection.execute("UPDATE webhook_deliveries SET attempts = $1", deliver.MAX_CLAIMS)

    async with delivering(signing(resources)):
        done = await when_over(resources, delivery)

    assert (done.state, receiver.calls) == ("failed", [])
    assert "died" in (done.last_error or "")


async def test_at_the_end_what_is_under_way_may_finish(
    resources: Resources, receiver: Receiver
) -> None:
    let_go = asyncio.Event()

    async def answer(_: web.Request) -> web.Response:
        await let_go.wait()
        return web.Response()

    receiver.answer = answer
    _, delivery = await ended(resources, receiver.url)
    async with delivering(signing(resources)) as deliverer:
        await receiver.called()
        deliverer.stop()
        _, late = await ended(resources, receiver.url)
        let_go.set()

    assert (await when_over(resources, delivery)).state == "delivered"
    left = await when(resources, late, lambda _: True)
    assert (left.state, left.attempts, len(receiver.calls)) == ("pending", 0, 1)


async def test_at_the_end_what_takes_too_long_is_given_back_at_once(
    resources: Resources, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "STOP_GRACE_S", 0.1)

    async def answer(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    receiver.answer = answer
    _, delivery = await ended(resources, receiver.url)
    async with delivering(signing(resources)):
        await receiver.called()

    left = await when(resources, delivery, lambda _: True)
    assert (left.state, left.attempts) == ("pending", 0)
    assert left.next_at is not None
    assert left.next_at <= resources.clock.now() + timedelta(seconds=1)


async def test_it_goes_on_after_postgresql_was_away(
    resources: Resources, receiver: Receiver
) -> None:
    port = _port_of(resources.settings.database_url)
    async with proxy_of(port) as proxy:
        dsn = resources.settings.database_url.replace(f":{port}/", f":{proxy.port}/")
        async with (
            Database(dsn, size=2) as database,
            delivering(replace(signing(resources), database=database)),
        ):
            await proxy.cut()
            _, delivery = await ended(resources, receiver.url)
            await asyncio.sleep(0.1)  # a few looks in vain
            await proxy.restore()
            done = await when_over(resources, delivery)

    assert done.state == "delivered"


async def test_a_wake_is_heard_at_once(
    resources: Resources, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "LOOK_INTERVAL_S", 600)
    async with delivering(signing(resources)) as deliverer:
        await asyncio.sleep(0.1)  # its first look is over
        await ended(resources, receiver.url)

        deliverer.wake()

        await receiver.called()


async def let_the_lease_run_out(resources: Resources, delivery: Delivery) -> None:
    async with resources.database.connection() as connection:
        await connection.execute(
            "UPDATE webhook_deliveries SET next_at = now() WHERE id = $1", delivery.id
        )


def _cutting(proxy: Proxy) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        await proxy.cut()
        return web.Response()

    return answer


def _port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


# --- addresses that nothing may be sent to ---

# In each {port} is that of a listener on every address of this machine.
HOSTILE = {
    "loopback": "http://127.0.0.1:{port}/",
    "another loopback": "http://127.8.8.8:{port}/",
    "this host": "http://0.0.0.0:{port}/",
    "decimal": "http://2130706433:{port}/",
    "octal": "http://0177.0.0.1:{port}/",
    "octal, long": "http://0177.0000.0000.0001:{port}/",
    "octal in one": "http://017700000001:{port}/",
    "hexadecimal": "http://0x7f000001:{port}/",
    "hexadecimal parts": "http://0x7f.0x0.0x0.0x1:{port}/",
    "mixed": "http://0x7f.0.1:{port}/",
    "two parts": "http://127.1:{port}/",
    "three parts": "http://127.0.1:{port}/",
    "zero": "http://0:{port}/",
    "overflowing": "http://383838383838:{port}/",
    "leading zeros": "http://127.000.000.001:{port}/",
    "trailing dot": "http://127.0.0.1.:{port}/",
    "full-width digits": "http://１２７.０.０.１:{port}/",
    "ideographic full stops": "http://127。0。0。1:{port}/",
    "circled digits": "http://①②⑦.⓪.⓪.①:{port}/",
    "percent-encoded": "http://%31%32%37.0.0.1:{port}/",
    "ten": "http://10.0.0.1:{port}/",
    "172": "http://172.16.0.1:{port}/",
    "192.168": "http://192.168.1.1:{port}/",
    "carrier": "http://100.64.0.1:{port}/",
    "metadata of clouds": "http://169.254.169.254/latest/meta-data/iam/",
    "metadata, decimal": "http://2852039166/latest/meta-data/",
    "metadata of Alibaba": "http://100.100.100.200/latest/meta-data/",
    "metadata of Oracle": "http://192.0.0.192/latest/",
    "wire server of Azure": "http://168.63.129.16/machine",
    "metadata of AWS by IPv6": "http://[fd00:ec2::254]/latest/",
    "benchmarking": "http://198.18.0.1:{port}/",
    "documentation": "http://192.0.2.1:{port}/",
    "multicast": "http://224.0.0.1:{port}/",
    "broadcast": "http://255.255.255.255:{port}/",
    "reserved": "http://240.0.0.1:{port}/",
    "IPv6 loopback": "http://[::1]:{port}/",
    "IPv6 loopback, long": "http://[0:0:0:0:0:0:0:1]:{port}/",
    "IPv6 unspecified": "http://[::]:{port}/",
    "mapped": "http://[::ffff:127.0.0.1]:{port}/",
    "mapped, hexadecimal": "http://[::ffff:7f00:1]:{port}/",
    "mapped, long": "http://[0000:0000:0000:0000:0000:ffff:127.0.0.1]:{port}/",
    "compatible": "http://[::127.0.0.1]:{port}/",
    "translated": "http://[::ffff:0:127.0.0.1]:{port}/",
    "6to4": "http://[2002:7f00:1::]:{port}/",
    "NAT64": "http://[64:ff9b::7f00:1]:{port}/",
    "NAT64 of one's own": "http://[64:ff9b:1::7f00:1]:{port}/",
    "Teredo": "http://[2001:0:7f00:1::]:{port}/",
    "link-local": "http://[fe80::1]:{port}/",
    "link-local with a zone": "http://[fe80::1%25lo]:{port}/",
    "link-local with a raw zone": "http://[fe80::1%lo]:{port}/",
    "loopback with a zone": "http://[::1%25lo]:{port}/",
    "unique local": "http://[fd12:3456::1]:{port}/",
    "site-local": "http://[fec0::1]:{port}/",
    "IPv6 multicast": "http://[ff02::1]:{port}/",
    "no IPv6 at all": "http://[127.0.0.1]:{port}/",
    "a future address": "http://[v1.7f000001]:{port}/",
    "localhost": "http://localhost:{port}/",
    "localhost in capitals": "http://LOCALHOST:{port}/",
    "localhost with a dot": "http://localhost.:{port}/",
    "below localhost": "http://anything.localhost:{port}/",
    "full-width localhost": "http://ｌｏｃａｌｈｏｓｔ:{port}/",
    "localhost with a soft hyphen": "http://local\u00adhost:{port}/",
    "a user": "http://user@127.0.0.1:{port}/",
    "a user and a password": "http://user:word@me.test:{port}/",
    "an empty user": "http://@127.0.0.1:{port}/",
    "a user that looks like a host": "http://me.test@127.0.0.1:{port}/",
    "a user behind a fragment": "http://me.test#@127.0.0.1:{port}/",
    "a user behind a backslash": "http://me.test\\@127.0.0.1:{port}/",
    "backslashes for slashes": "http:\\\\127.0.0.1:{port}\\",
    "one slash": "http:/127.0.0.1:{port}/",
    "three slashes": "http:///127.0.0.1:{port}/",
    "no scheme": "//127.0.0.1:{port}/",
    "Redis at home": "http://127.0.0.1:6379/",
    "PostgreSQL next door": "http://10.0.0.5:5432/",
    "gopher for Redis": "gopher://127.0.0.1:6379/_FLUSHALL",
    "gopher": "gopher://127.0.0.1:{port}/_POST",
    "file": "file:///etc/passwd",
    "ftp": "ftp://127.0.0.1:{port}/",
    "dict": "dict://127.0.0.1:{port}/stats",
    "ws": "ws://127.0.0.1:{port}/",
    "unix": "unix:///var/run/docker.sock",
    "http by unix": "http+unix://%2Fvar%2Frun%2Fdocker.sock/",
    "data": "data:text/plain,x",
    "javascript": "javascript:alert(1)",
    "port 0": "http://me.test:0/",
    "a port too high": "http://me.test:65536/",
    "a negative port": "http://me.test:-1/",
    "a port in words": "http://me.test:http/",
    "CRLF in the path": "http://me.test/\r\nX-Injected: 1",
    "CRLF in the host": "http://127.0.0.1\r\n.me.test:{port}/",
    "a tab in the host": "http://127.0.\t0.1:{port}/",
    "a leading blank": " http://127.0.0.1:{port}/",
    "a null": "http://127.0.0.1:{port}/\0",
    "an empty label": "http://me..test:{port}/",
    "a name that is private": "http://inside.test:{port}/",
    "a name that is private by IPv6": "http://inside-six.test:{port}/",
    "a name that is mapped": "http://mapped.test:{port}/",
    "a name for the metadata": "http://metadata.test/",
    "a name that is behind NAT64": "http://nat64.test:{port}/",
    "a name that is compatible": "http://compatible.test:{port}/",
    "a name that is nowhere": "http://nowhere.test:{port}/",
    "a name that turns private": "http://rebinding.test:{port}/",
}
# What a resolver says, one answer after the other; the last one for ever.
NAMES: dict[str, list[list[str]]] = {
    "inside.test": [["127.0.0.1"]],
    "inside-six.test": [["::1"]],
    "mapped.test": [["::ffff:127.0.0.1"]],
    "metadata.test": [["169.254.169.254"]],
    "nat64.test": [["64:ff9b:1::7f00:1", "64:ff9b::7f00:1"]],
    "compatible.test": [["::127.0.0.1", "fec0::1"]],
    "nowhere.test": [[]],
    # Unallocated, so nobody answers there; and then ourselves.
    "rebinding.test": [["2000::1"], ["127.0.0.1"]],
    "half.test": [["127.0.0.1", "2000::1"]],
}


@dataclass(slots=True)
class Listener:
    """Counts who connects to any address of this machine."""

    port: int = 0
    connections: int = 0


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    found = Listener()

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        writer.close()

    async with await asyncio.start_server(serve, "0.0.0.0", 0) as server:
        found.port = server.sockets[0].getsockname()[1]
        with suppress(OSError):  # without IPv6 nothing can connect there either
            six = await asyncio.start_server(serve, "::", found.port)
            try:
                yield found
            finally:
                six.close()
                await six.wait_closed()
            return
        yield found


@pytest.fixture
def lookups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names that were asked for; those in NAMES are answered from there."""
    asked: list[str] = []
    honest = socket.getaddrinfo

    def answer(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in NAMES:
            return honest(host, port, *arguments, **options)
        asked.append(name)
        answers = NAMES[name]
        addresses = answers[min(asked.count(name), len(answers)) - 1]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    return asked


async def test_there_are_many_ways_to_be_hostile() -> None:
    assert len(HOSTILE) >= 60


@pytest.mark.usefixtures("lookups")
async def test_nothing_connects_to_a_hostile_address(
    resources: Resources, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(deliver, "SCHEDULE_S", (600,) * 9)
    monkeypatch.setattr(deliver, "MAX_SENDING_PER_HOST", 100)
    guarded = signing(resources, allow_private_addresses=False)
    queue = VideoQueue.sharing(guarded.settings, guarded.database, guarded.redis)
    accepted: set[str] = set()
    sent: dict[str, Delivery] = {}
    for name, template in HOSTILE.items():
        url = template.replace("{port}", str(listener.port))
        try:
            await queue.enqueue(VIDEO, webhook_url=url)
            accepted.add(name)
        except InvalidRequestError as error:
            assert "webhook_url" in error.message  # noqa: PT017  either way is all right
        if "\0" not in url:  # which no row can hold
            _, sent[name] = await ended(resources, url)

    async with delivering(guarded):
        outcomes = {
            name: await when(resources, delivery, lambda found: found.last_error is not None)
            for name, delivery in sent.items()
        }

    assert listener.connections == 0
    assert {name for name in HOSTILE if name.startswith("a name ")} == accepted
    assert {name for name, each in outcomes.items() if each.last_status is not None} == set()
    # What the text tells is the same next time; what a name leads to may be mended.
    assert {name for name, each in outcomes.items() if each.state == "pending"} == accepted
    assert "private" in (outcomes["a name that is private"].last_error or "")


async def test_the_address_that_was_looked_at_is_the_one_that_is_connected_to(
    resources: Resources,
    listener: Listener,
    lookups: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deliver, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(deliver, "SCHEDULE_S", (600,) * 9)
    _, rebinding = await ended(resources, f"http://rebinding.test:{listener.port}/")
    _, half = await ended(resources, f"http://half.test:{listener.port}/")

    async with delivering(signing(resources, allow_private_addresses=False)):
        for delivery in (rebinding, half):
            await when(resources, delivery, lambda found: found.last_error is not None)

    assert sorted(lookups) == ["half.test", "rebinding.test"]  # once each
    assert listener.connections == 0


async def test_private_addresses_are_called_where_a_setting_allows_it(
    resources: Resources, receiver: Receiver
) -> None:
    await ended(resources, receiver.url.replace("127.0.0.1", "localhost"))

    async with delivering(signing(resources, allow_private_addresses=True)):
        await receiver.called()
