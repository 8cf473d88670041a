"""
What comes of requests that should not be: for every operation a clear 4xx, nothing changed in any
table, and one line in the log that repeats nothing of what came.
"""

import asyncio
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer
from loguru import logger
from pydantic import SecretStr
from standardwebhooks import Webhook

from tests.by_hand import Hand
from tests.server.conftest import TOKEN, Client
from vidgen.job import VideoJob, VideoRequest
from vidgen.queue import VideoQueue
from vidgen.resources import Resources
from vidgen.server import body
from vidgen.server.access import OPEN
from vidgen.server.app import build, operations, serving
from vidgen.server.operation import Operation
from vidgen.settings import Settings
from vidgen.store.pool import Connection

READER = "a-token-that-only-reads"
PLANTED = "sk-planted-secret-4711"  # in whatever is refused, and never in the log
SECRET = f"whsec_{b64encode(bytes(range(32))).decode()}"
FORGER = f"whsec_{b64encode(bytes(range(24))).decode()}"
NOBODY = "00000000-0000-7000-8000-000000000000"
JSON = {"Content-Type": "application/json"}
BEARER = {"Authorization": f"Bearer {TOKEN}"}
# Bodies that are right, for what wants more than {}.
RIGHT: dict[str, dict[str, Any]] = {
    "/api/jobs": {"provider": "sora", "prompt": "a tram"},
    "/api/keys": {"user_id": "ada", "provider": "sora", "key": "sk-of-ada-0123456789"},
    "/api/login": {"token": TOKEN},
}
# Beside what /openapi.json describes.
OLDER = [
    ("GET", "/api/admin/queue"),
    ("POST", "/api/admin/queue/retry/{id}"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
]

ALL = list(operations())
GUARDED = [(one.method, one.path) for one in ALL if one.path not in OPEN] + OLDER
ACTING = [(method, path) for method, path in GUARDED if method == "POST"]
WITH_BODY = [one for one in ALL if one.body is not None]
WITH_QUERY = [one for one in ALL if one.query is not None]
WITH_ID = [(method, path) for method, path in GUARDED if "{id}" in path]


def named(value: Any) -> str:
    if isinstance(value, Operation):
        return f"{value.method} {value.path}"
    return " ".join(value) if isinstance(value, tuple) else str(value)


@dataclass(slots=True)
class Log:
    """What was written of requests; lines at debug are for nobody."""

    lines: list[dict[str, Any]] = field(default_factory=list)

    def write(self, said: Any) -> None:
        record = said.record
        self.lines.append(
            {
                "level": record["level"].name,
                "message": record["message"],
                "exception": record["exception"],
                **record["extra"],
            }
        )


@pytest.fixture
def log() -> Iterator[Log]:
    log = Log()
    sink = logger.add(log.write, level="INFO")
    yield log
    logger.remove(sink)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    secret = SecretStr(SECRET)
    return settings.model_copy(
        update={
            "admin_tokens": SecretStr(f"grafana:read:{READER}"),
            "openai_webhook_secret": secret,
            "gemini_webhook_secret": secret,
        }
    )


@pytest.fixture
async def client(resources: Resources) -> AsyncIterator[Client]:
    """Somebody who says with each request who they are, or does not."""
    async with TestClient(TestServer(build(resources))) as client:
        yield client


@pytest.fixture
async def job(queue: VideoQueue, hand: Hand) -> VideoJob:
    """One failed job, beside one that waits and one that is made: there is something to change."""
    await queue.enqueue(VideoRequest(provider="sora", prompt="a bus"))
    await hand.carry(await queue.enqueue(VideoRequest(provider="sora", prompt="a train")))
    return await hand.fail(await queue.enqueue(VideoRequest(provider="sora", prompt="a tram")))


async def fingerprint(connection: Connection) -> dict[str, str]:
    """A digest of every row of every table."""
    rows = await connection.fetch(
        "SELECT tablename AS name FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    )
    told = {}
    for name in (row["name"] for row in rows):
        found = await connection.fetch(f"SELECT t::text AS row FROM {name} AS t ORDER BY 1")  # noqa: S608  names of the catalog
        text = "\n".join(row["row"] for row in found)
        told[name] = f"{len(found)} rows, {hashlib.sha256(text.encode()).hexdigest()}"
    return told


@pytest.fixture
async def unchanged(resources: Resources, job: VideoJob) -> AsyncIterator[None]:
    """Fail the test if it leaves anything else in PostgreSQL than it found."""
    async with resources.database.connection() as connection:
        before = await fingerprint(connection)
    yield
    async with resources.database.connection() as connection:
        assert await fingerprint(connection) == before


async def refused(
    client: Client,
    log: Log,
    method: str,
    path: str,
    status: int,
    *,
    headers: Mapping[str, str] = BEARER,
    data: Any = None,
    code: str | None = None,
) -> dict[str, Any]:
    """The problem that the request is told, once it was refused as it should be."""
    log.lines.clear()

    async with client.request(method, path, headers=headers, data=data) as answer:
        document: dict[str, Any] = await answer.json(content_type=None)

    assert answer.status == status, (method, path, data, document)
    assert document["success"] is False
    assert document["message"]
    assert code in {None, document["code"]}
    if answer.content_type == "application/problem+json":
        assert (document["status"], document["detail"]) == (answer.status, document["message"])
    [line] = log.lines
    assert line["level"] in {"INFO", "WARNING"}
    assert line["exception"] is None
    assert not any(secret in str(line) for secret in (PLANTED, TOKEN, READER, SECRET))
    return document


def address(path: str, job: VideoJob) -> str:
    return path.replace("{id}", str(job.id))


KINDS = {"deliveries": "delivery", "keys": "key"}  # what an id in the path belongs to, if no job


def body_of(path: str) -> dict[str, Any]:
    return RIGHT.get(path, {})


# --- who may not ---


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("asked", GUARDED, ids=named)
async def test_without_a_token_nothing_is_done(
    client: Client, log: Log, job: VideoJob, asked: tuple[str, str]
) -> None:
    method, path = asked
    sent = orjson.dumps(body_of(path)) if method == "POST" else None
    for headers in (
        {},
        {"Authorization": f"Bearer {PLANTED}"},
        {"Authorization": f"Basic {PLANTED}"},
        {"Cookie": f"vidgen_session={PLANTED}"},
        {"Cookie": f"vidgen_session=9999999999.YWRtaW4.{PLANTED}"},
    ):
        await refused(
            client,
            log,
            method,
            address(path, job),
            401,
            headers=JSON | headers,
            data=sent,
            code="unauthorized",
        )


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("asked", ACTING, ids=named)
async def test_a_role_that_reads_does_nothing(
    client: Client, log: Log, job: VideoJob, asked: tuple[str, str]
) -> None:
    method, path = asked

    await refused(
        client,
        log,
        method,
        address(path, job),
        403,
        headers={"Authorization": f"Bearer {READER}", **JSON},
        data=orjson.dumps(body_of(path)),
        code="forbidden",
    )


@pytest.mark.usefixtures("unchanged")
async def test_a_login_with_a_wrong_token_is_refused_until_the_address_is_closed_out(
    client: Client, log: Log
) -> None:
    wrong = orjson.dumps({"token": PLANTED})
    for status in [401] * 20 + [429] * 2:
        await refused(client, log, "POST", "/api/login", status, headers=JSON, data=wrong)

    await refused(client, log, "GET", "/api/jobs", 429, code="too_many_failures")
    await refused(client, log, "GET", "/api/jobs", 401, headers={})


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("asked", ACTING, ids=named)
async def test_a_page_of_another_site_does_nothing_with_our_cookie(
    client: Client, log: Log, job: VideoJob, asked: tuple[str, str]
) -> None:
    method, path = asked
    login = await client.post("/api/login", json={"token": TOKEN})
    cookie = login.cookies["vidgen_session"].value
    for foreign in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": f"https://{PLANTED}.test"}):
        await refused(
            client,
            log,
            method,
            address(path, job),
            403,
            headers={"Cookie": f"vidgen_session={cookie}", **JSON, **foreign},
            data=orjson.dumps(body_of(path)),
            code="cross_site",
        )


# --- bodies that are not right ---

NOT_JSON = {
    "half": b'{"',
    "words": PLANTED.encode(),
    "a comma too many": b'{"a": 1,}',
    "two documents": b"{} {}",
    "no Unicode": b'{"a": "\xff\xfe"}',
    "half a surrogate": b'{"a": "\\ud800"}',
    "not a number": b'{"a": NaN}',
    "a mark in front": b"\xef\xbb\xbf{}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "nested without end": b"[" * 20_000,
    "a null character": b"\0",
}
NO_RECORD = [b"[]", b"null", b"7", b'"x"', b"true", b"[{}]"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("one", WITH_BODY, ids=named)
async def test_a_body_that_is_no_json_record_is_refused(
    client: Client, log: Log, job: VideoJob, one: Operation
) -> None:
    for sent in (*NOT_JSON.values(), *NO_RECORD):
        await refused(
            client,
            log,
            one.method,
            address(one.path, job),
            400,
            headers=BEARER | JSON,
            data=sent,
            code="invalid_request",
        )


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("one", WITH_BODY, ids=named)
async def test_a_field_of_another_type_is_refused_by_its_name(
    client: Client, log: Log, job: VideoJob, one: Operation
) -> None:
    assert one.body is not None  # those without are not in the list
    for name in one.body.model_fields:
        for wrong in ([PLANTED], {"a": {"b": 1}}, 1.5, "\0" + PLANTED, -(2**62)):
            if fits(one, name, wrong):
                continue
            sent = body_of(one.path) | {name: wrong}
            told = await refused(
                client,
                log,
                one.method,
                address(one.path, job),
                400,
                headers=BEARER | JSON,
                data=orjson.dumps(sent),
            )
            assert name in told["detail"]


def fits(one: Operation, name: str, value: object) -> bool:
    """Whether *value* is what the field wants, after all."""
    if name == "token":
        return isinstance(value, str)  # a wrong one, and told so
    return isinstance(value, dict) and name in {"extra", "metadata"}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("one", WITH_BODY, ids=named)
async def test_words_and_numbers_are_not_taken_for_each_other(
    client: Client, log: Log, job: VideoJob, one: Operation
) -> None:
    assert one.body is not None
    for name, info in one.body.model_fields.items():
        kinds = {bool: (0, 1, "true", "yes"), int: ("8", True), str: (8, True)}
        for wrong in next(
            (
                values
                for kind, values in kinds.items()
                if info.annotation in {kind, kind | None} and not info.metadata
            ),
            (),
        ):
            await refused(
                client,
                log,
                one.method,
                address(one.path, job),
                400,
                headers=BEARER | JSON,
                data=orjson.dumps(body_of(one.path) | {name: wrong}),
                code="invalid_request",
            )


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("one", WITH_BODY, ids=named)
async def test_a_field_that_nobody_knows_is_refused(
    client: Client, log: Log, job: VideoJob, one: Operation
) -> None:
    for name in ("sekonds", "__class__", "", "Token"):
        await refused(
            client,
            log,
            one.method,
            address(one.path, job),
            400,
            headers=BEARER | JSON,
            data=orjson.dumps(body_of(one.path) | {name: PLANTED}),
            code="invalid_request",
        )


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("one", WITH_BODY, ids=named)
@pytest.mark.parametrize("chunked", [False, True], ids=["told", "chunked"])
async def test_a_body_that_is_too_large_is_not_read(
    client: Client,
    log: Log,
    job: VideoJob,
    one: Operation,
    chunked: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body, "LARGE_BYTES", body.SMALL_BYTES)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100_000):  # 1.6 GB, unless somebody stops it
            yield b" " * 16_384

    await refused(
        client,
        log,
        one.method,
        address(one.path, job),
        413,
        headers=BEARER | JSON,
        data=endless() if chunked else b" " * (body.SMALL_BYTES + 1),
    )


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("one", WITH_BODY, ids=named)
async def test_a_body_that_never_ends_is_not_waited_for(
    client: Client, log: Log, job: VideoJob, one: Operation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SMALL_TOTAL_S", "LARGE_TOTAL_S"):
        monkeypatch.setattr(body, name, 0.1)
    over = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield b"{"
        await over.wait()

    await refused(
        client,
        log,
        one.method,
        address(one.path, job),
        408,
        headers=BEARER | JSON,
        data=stalling(),
    )
    over.set()


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("one", WITH_BODY, ids=named)
async def test_what_is_said_to_be_no_json_is_not_read_as_such(
    client: Client, log: Log, job: VideoJob, one: Operation
) -> None:
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/xml",
        "nonsense",
        "text/plain; application/json",
    ):
        told = await refused(
            client,
            log,
            one.method,
            address(one.path, job),
            415,
            headers=BEARER | {"Content-Type": kind},
            data=orjson.dumps(body_of(one.path) or {"x": 1}),
        )
        assert "application/json" in told["detail"]


HARD_TO_KEEP: dict[str, dict[str, Any]] = {
    "a null character in the prompt": {"prompt": "a\0b"},
    "an empty prompt": {"prompt": ""},
    "an endless prompt": {"prompt": "x" * 1_000_000},
    "a null character in metadata": {"metadata": {"a": "\0"}},
    "a null character in a name": {"metadata": {"a\0": 1}},
    "metadata that are nested": {"metadata": {"a": orjson.Fragment(b"[" * 600 + b"]" * 600)}},
    "metadata that are large": {"metadata": {"a": "x" * 20_000}},
    "a null character in extra": {"extra": {"a": ["\0"]}},
    "extra that is nested": {"extra": {"a": orjson.Fragment(b"[" * 600 + b"]" * 600)}},
    "a seed beyond 64 bits": {"seed": orjson.Fragment(b"1" + b"0" * 30)},
    "a seed of 64 bits": {"seed": 2**64 - 1},
    "no seconds": {"seconds": 0},
    "seconds below zero": {"seconds": -8},
    "a size of letters": {"size": "XxY"},
    "a moment without a zone": {"run_at": "2026-12-24T18:00:00"},
    "a moment as a number": {"run_at": 1_790_000_000},
    "a moment as a number in words": {"run_at": "1790000000"},
    "a day": {"run_at": "2026-12-24"},
    "a year beyond": {"run_at": "99999-01-01T00:00:00Z"},
    "the last moment, far west": {"run_at": "9999-12-31T23:59:59-23:59"},
    "the first moment, far east": {"run_at": "0001-01-01T00:00:00+23:59"},
    "no deadline": {"deadline_s": 0},
    "an endless deadline": {"deadline_s": 10**9},
    "an empty key": {"idempotency_key": ""},
    "an endless key": {"idempotency_key": "x" * 5000},
    "17 images": {"images": [{"key": "x"}] * 17},
    "an image of nothing": {"images": [{}]},
    "an image of everything": {"images": [{"key": "x", "url": "https://me.test/x"}]},
    "an image that is none": {"images": [{"data": b64encode(b"MZ").decode()}]},
    "an image that is no base64": {"images": [{"data": "%%%"}]},
    "an image in other letters": {"images": [{"data": "äöü"}]},
    "a file": {"images": [{"url": "file:///etc/passwd"}]},
    "another role": {"images": [{"key": "x", "role": "boss"}]},
    "a webhook in a private place": {"webhook_url": "http://127.0.0.1:6379/"},
    "a webhook that is none": {"webhook_url": "x"},
    "nobody's provider": {"provider": "nobody"},
    "nobody's model": {"model": "nobody-1"},
}


@pytest.mark.usefixtures("unchanged")
async def test_a_video_that_cannot_be_made_or_kept_is_refused(client: Client, log: Log) -> None:
    for wrong in HARD_TO_KEEP.values():
        await refused(
            client,
            log,
            "POST",
            "/api/jobs",
            400,
            headers=BEARER | JSON,
            data=orjson.dumps(RIGHT["/api/jobs"] | wrong),
        )


# --- the rest of a request ---


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("one", WITH_QUERY, ids=named)
async def test_what_nobody_knows_behind_the_question_mark_is_refused(
    client: Client, log: Log, job: VideoJob, one: Operation
) -> None:
    assert one.query is not None
    known = [f"{name}=%00{PLANTED}" for name in one.query.model_fields if name != "download"]
    for query in ("sekonds=8", "=", "%00=1", f"{PLANTED}=1", *known):
        path = f"{address(one.path, job)}?{query}"
        await refused(client, log, one.method, path, 400, code="invalid_request")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("asked", WITH_ID, ids=named)
async def test_an_id_that_is_none_is_called_so(
    client: Client, log: Log, asked: tuple[str, str]
) -> None:
    method, path = asked
    for none in ("7", "x", "%00", "%F0%9F%98%80", "x" * 5000, "%27%20OR%201", "%ff%fe", "null"):
        told = await refused(
            client,
            log,
            method,
            path.replace("{id}", none),
            400,
            headers=BEARER | JSON,
            code="invalid_request",
        )
        assert len(told["message"]) < 200
    missing = f"{KINDS.get(path.split('/')[2], 'job')}_not_found"
    await refused(client, log, method, path.replace("{id}", NOBODY), 404, code=missing)


HEADERS = (
    "Accept",
    "Accept-Encoding",
    "Content-Encoding",
    "Content-Type",
    "Cookie",
    "Host",
    "Idempotency-Key",
    "If-Modified-Since",
    "If-None-Match",
    "Origin",
    "Range",
    "Sec-Fetch-Site",
    "traceparent",
    "X-Forwarded-Proto",
)
ABSURD = {
    "a last event in words": {"Last-Event-ID": PLANTED},
    "one below zero": {"Last-Event-ID": "-1"},
    "one beyond all": {"Last-Event-ID": "9" * 30},
    "one without end": {"Last-Event-ID": "1" * 6000},
    "one in other digits": {"Last-Event-ID": "١٢"},
}


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("name", ABSURD)
@pytest.mark.parametrize("path", ["/api/events", "/api/jobs/{id}/events"])
async def test_an_absurd_last_event_is_refused(
    client: Client, log: Log, job: VideoJob, name: str, path: str
) -> None:
    headers = BEARER | ABSURD[name]

    await refused(
        client, log, "GET", address(path, job), 400, headers=headers, code="invalid_request"
    )


@pytest.mark.usefixtures("unchanged")
async def test_absurd_headers_open_nothing(client: Client, log: Log, job: VideoJob) -> None:
    for method, path in GUARDED:
        for value in ("", "ünïcödé", "x" * 500, ";;;=,[::1"):
            headers = dict.fromkeys(HEADERS, value)
            await refused(client, log, method, address(path, job), 401, headers=headers)


async def test_absurd_headers_of_somebody_with_a_token_are_no_defect_either(
    client: Client, job: VideoJob
) -> None:
    for header in HEADERS:
        for value in ("", "ünïcödé", "x" * 6000, ";;;=,[::1", "bytes=9-1", "00-x-x-x"):
            for path in ("/", "/api/jobs", f"/api/jobs/{job.id}", "/metrics"):
                async with client.get(path, headers=BEARER | {header: value}) as answer:
                    assert answer.status < 500, (header, value, path)


@pytest.mark.usefixtures("unchanged")
async def test_another_method_is_refused(client: Client, log: Log, job: VideoJob) -> None:
    for path in sorted({path for _, path in GUARDED}):
        known = {method for method, other in GUARDED if other == path}
        for method in sorted({"PUT", "PATCH", "DELETE", "TRACE", "QUERY"} - known):
            await refused(client, log, method, address(path, job), 405)


# --- webhooks ---


def signed(body: bytes, secret: str, **changes: str) -> dict[str, str]:
    now = datetime.now(UTC)
    return {
        "webhook-id": "wh_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign("wh_1", now, body.decode()),
        **changes,
    }


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("source", ["openai", "gemini"])
async def test_a_forged_webhook_changes_nothing(client: Client, log: Log, source: str) -> None:
    sent = orjson.dumps({"type": "video.completed", "data": {"id": PLANTED}})
    path = f"/api/webhooks/{source}"
    for headers in (
        {},
        BEARER,
        signed(sent, FORGER),
        signed(b"{}", SECRET),
        signed(sent, SECRET, **{"webhook-id": "wh_2"}),
        signed(sent, SECRET, **{"webhook-timestamp": "0"}),
        signed(sent, SECRET, **{"webhook-signature": f"v1,{PLANTED}"}),
    ):
        await refused(
            client, log, "POST", path, 400, headers=headers, data=sent, code="webhook_invalid"
        )

    large = b"x" * (body.SMALL_BYTES + 1)
    await refused(client, log, "POST", path, 413, headers=signed(b"x", SECRET), data=large)


# --- bytes that are no request ---


async def test_bytes_that_are_no_request_leave_one_line_without_them(
    resources: Resources, unused_tcp_port: int, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    settings = resources.settings.model_copy(update={"http_port": unused_tcp_port})
    async with serving(replace(resources, settings=settings)), asyncio.timeout(10):
        log.lines.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port)
        writer.write(
            b"GET /api/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
            + PLANTED.encode()
            + b"\0\r\n\r\n"
        )
        answer = await reader.read()
        writer.close()
        [line] = log.lines

    assert b" 400 " in answer.splitlines()[0]
    assert (line["level"], line["message"]) == ("INFO", "no HTTP came")
    assert line["exception"] is None
    assert not caplog.records  # aiohttp itself writes a traceback, and the header
    assert PLANTED not in str(line)
