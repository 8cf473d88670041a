"""How vidgen speaks HTTP: addresses, redirects, hints, and what may be repeated of an answer."""

import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from io import BytesIO
from typing import Any

import pytest
from aiohttp import FormData, web

from vidgen.errors import (
    InputRejectedError,
    ProtocolError,
    ProviderError,
    ResultInvalidError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.providers.answer import (
    Answer,
    by_status,
    moment,
    number,
    poll_hint,
    proves_nothing,
    scrubbed,
    wait_hint,
    word,
)
from vidgen.providers.http import ProviderHttp, authority, joined, same_origin

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def listening(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def http() -> AsyncIterator[ProviderHttp]:
    found = ProviderHttp()
    yield found
    await found.aclose()


def said(status: int, text: str = "") -> Answer:
    return Answer(status=status, headers={}, body=text.encode())


async def refusal(answer: Answer) -> ProviderError:
    return ProviderError(f"refused with {answer.status}")


async def test_a_name_that_leads_to_a_private_address_is_refused(http: ProviderHttp) -> None:
    async def handler(_: web.Request) -> web.Response:
        raise AssertionError("never reached")

    async with listening(handler) as url:
        address = url.replace("127.0.0.1", "localhost")
        with pytest.raises(InputRejectedError, match="private address"):
            await http.fetch(address, max_bytes=100)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "0.0.0.0",
        "[fd00::1]",
        "224.0.0.1",
        "2130706433",
        "127.1",
        "0x7f.1",
    ],
)
async def test_no_way_of_writing_a_private_address_gets_through(
    http: ProviderHttp, host: str
) -> None:
    with pytest.raises(InputRejectedError):
        await http.fetch(f"http://{host}:9/x", max_bytes=100)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "http://", "http://u:p@h/", "x", "http://[/"]
)
async def test_an_address_nobody_should_follow_is_refused(http: ProviderHttp, url: str) -> None:
    with pytest.raises(InputRejectedError):
        await http.fetch(url, max_bytes=100)


async def test_an_input_image_is_fetched_up_to_its_limit() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=b"x" * int(request.query["n"]))

    http = ProviderHttp(allow_private_addresses=True)
    async with listening(handler) as url:
        assert await http.fetch(f"{url}/?n=1000", max_bytes=1000) == b"x" * 1000
        with pytest.raises(InputRejectedError, match="more than 1000 bytes"):
            await http.fetch(f"{url}/?n=1001", max_bytes=1000)
    await http.aclose()


async def test_an_answer_of_a_length_that_cannot_be_stops_nobody() -> None:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n"
            b"Content-Length: 18446744073709551615\r\n\r\n"
        )
        writer.close()

    http = ProviderHttp(allow_private_addresses=True)
    async with await asyncio.start_server(handler, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        for _ in range(3):  # aiohttp reads all but the first from a body that it has used
            assert await http.fetch(f"http://{host}:{port}/", max_bytes=1000) == b""
    await http.aclose()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, InputRejectedError),
        (503, TransientError),
        (522, TransientError),
        (429, TransientError),
    ],
)
async def test_an_input_image_that_is_refused_has_its_class(
    status: int, kind: type[ProviderError]
) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=status)

    http = ProviderHttp(allow_private_addresses=True)
    async with listening(handler) as url:
        with pytest.raises(kind):
            await http.fetch(url, max_bytes=100)
    await http.aclose()


async def test_each_submit_takes_a_fresh_connection_and_looks_share_one(
    http: ProviderHttp,
) -> None:
    ports: list[int] = []

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        return web.Response(body=b"{}")

    async with listening(handler) as url:
        for _ in range(2):
            await http.exchange("submit", "POST", url, headers={}, json=b"{}")
            await http.exchange("poll", "GET", url, headers={})

    assert ports[0] != ports[2]
    assert ports[1] == ports[3]


def frozen_s(seconds: float) -> None:
    """What a paused machine does to the loop."""
    time.sleep(seconds)


def a_form(image: bytes = b"x") -> FormData:
    form = FormData(default_to_multipart=True)
    form.add_field("prompt", "a kite")
    form.add_field("input_reference", BytesIO(image), content_type="image/png", filename="a.png")
    return form


@pytest.mark.parametrize("kind", ["json", "form"])
async def test_nothing_is_sent_by_a_process_that_was_frozen_while_it_connected(
    http: ProviderHttp, kind: str
) -> None:
    arrived: list[bytes] = []

    async def handler(request: web.Request) -> web.Response:
        arrived.append(await request.read())
        return web.Response()

    loop = asyncio.get_running_loop()
    body: dict[str, Any] = {"json": b"{}"} if kind == "json" else {"form": a_form()}
    async with listening(handler) as url:
        loop.call_soon(frozen_s, 0.3)
        with pytest.raises(SubmitUnknownError):
            await http.exchange(
                "submit", "POST", url, headers={}, not_after=loop.time() + 0.2, **body
            )

    assert arrived == []


async def test_a_form_is_not_ended_by_a_process_that_was_frozen_amid_it(
    http: ProviderHttp,
) -> None:
    begun, thawed = asyncio.Event(), asyncio.Event()
    arrived: list[bytes] = []

    async def handler(request: web.Request) -> web.Response:
        begun.set()
        await thawed.wait()
        arrived.append(await request.read())
        return web.Response()

    async def freeze(not_after: float) -> None:
        await begun.wait()
        frozen_s(max(not_after - asyncio.get_running_loop().time(), 0) + 0.01)
        thawed.set()

    async with listening(handler) as url, asyncio.TaskGroup() as group:
        not_after = asyncio.get_running_loop().time() + 0.5
        group.create_task(freeze(not_after))
        form = a_form(bytes(64 * 1024 * 1024))
        with pytest.raises(SubmitUnknownError):
            await http.exchange("submit", "POST", url, headers={}, form=form, not_after=not_after)

    assert arrived == []


async def test_a_form_arrives_whole_in_time(http: ProviderHttp) -> None:
    async def handler(request: web.Request) -> web.Response:
        form = await request.post()
        file = form["input_reference"]
        assert isinstance(file, web.FileField)
        assert (form["prompt"], file.file.read()) == ("a kite", b"x")
        assert request.content_length
        return web.Response(status=201)

    async with listening(handler) as url:
        answer = await http.exchange(
            "submit",
            "POST",
            url,
            headers={},
            form=a_form(),
            not_after=asyncio.get_running_loop().time() + 60,
        )

    assert answer.status == 201


@pytest.mark.parametrize(("status", "kind"), [(307, InputRejectedError), (303, SubmitUnknownError)])
async def test_a_redirected_submit_is_not_followed(
    http: ProviderHttp, status: int, kind: type[ProviderError]
) -> None:
    paths: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        paths.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with listening(handler) as url:
        with pytest.raises(kind, match=str(status)):
            await http.exchange("submit", "POST", f"{url}/a", headers={}, json=b"{}")

    assert paths == ["/a"]


def test_a_status_refuses_a_submit_only_if_nothing_can_have_been_made_of_it() -> None:
    below_500 = [status for status in range(100, 500) if proves_nothing(said(status))]
    refused_later = [status for status in range(500, 600) if not proves_nothing(said(status))]

    assert below_500 == [*range(100, 200), *range(300, 307), *range(309, 400), 408, 409, 499]
    # Not implemented, busy, overloaded, or a gateway that did not get through.
    assert refused_later == [501, 503, 521, 523, 529]


ENVOY = "upstream connect error or disconnect/reset before headers"


@pytest.mark.parametrize(
    ("text", "is_open"),
    [
        (f"{ENVOY}. reset reason: connection failure", False),
        (f"{ENVOY}. reset reason: local connection failure", False),
        (
            f"{ENVOY}. reset reason: remote connection failure, transport failure reason: delayed"
            " connect error: 111",
            False,
        ),
        (f"{ENVOY}. reset reason: connection timeout", False),
        (f"{ENVOY}. reset reason: overflow", False),
        (f"{ENVOY}. reset reason: remote refused stream reset", False),
        (f'{{"error": {{"message": "{ENVOY}. reset reason: overflow"}}}}', False),
        ("no healthy upstream", False),
        (f"{ENVOY}. reset reason: connection termination", True),
        (f"{ENVOY}. reset reason: remote reset", True),
        (f"{ENVOY}. reset reason: local reset", True),
        (f"{ENVOY}. reset reason: local refused stream reset", True),
        (f"{ENVOY}. reset reason: protocol error", True),
        (f"{ENVOY}. reset reason: overload manager reset", True),
        (f"{ENVOY}. reset reason: connection", True),  # cut short
        (f"{ENVOY}. retried and the latest reset reason: remote connection failure", True),
        (ENVOY, True),  # the oldest say no more
        (f"{ENVOY}. reset reason: remote reset".replace("/", "\\/"), True),  # as PHP writes JSON
        (f"{ENVOY}. reset reason: overflow".replace("/", "\\/"), False),
        (f"{ENVOY}. reset reason: overflow; {ENVOY}. reset reason: remote reset", True),
    ],
)
def test_a_503_of_envoy_refuses_a_submit_only_if_it_says_that_it_was_not_passed_on(
    text: str, is_open: bool
) -> None:
    assert proves_nothing(said(503, text)) is is_open
    kind = SubmitUnknownError if is_open else TransientError
    assert type(by_status(said(503, text), "submit", "no", wait_s=None)) is kind
    assert type(by_status(said(503, text), "poll", "no", wait_s=None)) is TransientError


async def test_a_submit_that_envoy_may_have_passed_on_is_unknown(http: ProviderHttp) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(status=503, text=f"{ENVOY}. reset reason: connection termination")

    async with listening(handler) as url:
        with pytest.raises(SubmitUnknownError, match="answered 503"):
            await http.exchange("submit", "POST", url, headers={}, json=b"{}")
        assert (await http.exchange("poll", "GET", url, headers={})).status == 503


async def test_a_refusal_is_one_even_if_its_text_is_cut_or_endless(http: ProviderHttp) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=400)
        response.content_length = 10**9
        await response.prepare(request)
        await response.write(b"x" * 100_000)
        if request.path == "/cut":
            assert request.transport is not None
            request.transport.close()
        else:
            await asyncio.Event().wait()
        return response

    async with listening(handler) as url:
        for path in ("cut", "endless"):
            answer = await http.exchange("submit", "POST", f"{url}/{path}", headers={}, json=b"{}")
            assert answer.status == 400
            assert len(answer.body) <= 65536


async def test_an_accepted_submit_whose_answer_is_cut_is_unknown(http: ProviderHttp) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 100
        await response.prepare(request)
        assert request.transport is not None
        request.transport.close()
        return response

    async with listening(handler) as url:
        with pytest.raises(SubmitUnknownError):
            await http.exchange("submit", "POST", url, headers={}, json=b"{}")


async def test_a_download_does_not_fall_back_from_https(http: ProviderHttp) -> None:
    # Nothing listens: reaching for it would be another error than the one expected.
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": f"ftp://127.0.0.1:{port}/"})

    async with listening(handler) as url:
        with pytest.raises(ProtocolError, match="no plain http"):
            async with http.download(url, home=url, credential={}, refusal=refusal):
                pass


async def test_a_compressed_answer_does_not_announce_its_length(http: ProviderHttp) -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        response = web.Response(body=b"x" * 10_000)
        response.enable_compression(web.ContentCoding.gzip)
        response._compression_force = web.ContentCoding.gzip
        return response

    async with (
        listening(handler) as url,
        http.download(url, home=url, credential={}, refusal=refusal) as stream,
    ):
        data = b"".join([chunk async for chunk in stream.chunks])

    assert data == b"x" * 10_000
    assert stream.size_bytes is None


def test_hints_are_read_in_every_form() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)

    assert wait_hint({"retry-after-ms": "1500", "retry-after": "9"}) == 1.5
    assert wait_hint({"retry-after": "9"}) == 9
    assert wait_hint({"retry-after": soon}) == pytest.approx(20, abs=2)
    assert wait_hint({"retry-after": "999999999"}) == 3600
    assert poll_hint({"openai-poll-after-ms": "250"}) == 1
    assert poll_hint({"openai-poll-after-ms": "5000"}) == 5


@pytest.mark.parametrize("value", ["", "soon", "-5", "0", "nan", "inf", "Thu, 99 Foo 2026"])
def test_hints_that_mean_nothing_are_none(value: str) -> None:
    assert wait_hint({"retry-after": value}) is None
    assert poll_hint({"openai-poll-after-ms": value}) in {None, 1.0}


def test_what_a_provider_says_is_repeated_without_secrets() -> None:
    prompt = "a red kite over a grey sea in the evening"

    said = scrubbed(
        "Wrong key sk-abc123 or AIzaXYZ (my-own-secret) at https://h/p?sig=1#x for "
        "'a red kite over a grey sea in the eve…'",
        secret="my-own-secret",
        private=("", prompt),
    )

    assert said == "Wrong key … or … (…) at https://h/p for '……'"


def test_what_a_provider_says_is_repeated_in_characters_that_can_be_stored() -> None:
    assert scrubbed("a\0b\ud800c\x1b[31m\u202ed\n e") == "abc[31md e"
    assert Answer(status=200, headers={"x-request-id": "r\udcff1\0"}, body=b"").request_id == "r1"


def test_a_code_is_one_word_and_nothing_that_could_be_a_prompt() -> None:
    assert [word(value) for value in ("a_b.c", 7, -1)] == ["a_b.c", "7", "-1"]
    strange: tuple[object, ...] = ("two words", "", True, None, {}, "x" * 81, "a\0", "sk-123")
    for value in strange:
        assert word(value) is None
    assert word("the-secret", secret="the-secret") is None


def test_only_finite_numbers_are_numbers() -> None:
    assert [number(value) for value in (7, "7", 7.5, " 7 ")] == [7, 7, 7.5, 7]
    strange: tuple[object, ...] = (True, None, "nan", "-inf", "1e999999", math.inf, 10**400, [])
    for value in strange:
        assert number(value) is None


def test_times_are_read_in_every_form_and_absurd_years_are_none() -> None:
    at = datetime(2026, 9, 24, 12, tzinfo=UTC)

    for value in (
        at.timestamp(),
        str(int(at.timestamp())),
        at.timestamp() * 1000,
        "2026-09-24T12:00:00Z",
        "2026-09-24T14:00:00+02:00",
        "2026-09-24T12:00:00",
    ):
        assert moment(value) == at
    strange: tuple[object, ...] = (0, -5, 1e10, 1e300, "soon", True, None, [], "0001-01-01")
    for absurd in (*strange, "9999-12-31T23:59:59-23:59"):
        assert moment(absurd) is None


def test_an_address_nobody_can_read_is_an_answer_nobody_can_read() -> None:
    with pytest.raises(ProtocolError):
        joined("https://h.example/v1", "http://[")


def test_a_host_is_told_with_its_port_where_that_is_not_usual() -> None:
    assert authority("https://H.example/v1") == authority("https://h.example:443") == "h.example"
    assert authority("http://h.example:8000/v1") == "h.example:8000"
    assert authority("http://[::1]:8000/v1") == "[::1]:8000"


def test_origins_are_compared_with_their_ports() -> None:
    assert same_origin("https://a.example/v1", "https://A.example:443/v2")
    assert not same_origin("https://a.example", "http://a.example")
    assert not same_origin("https://a.example", "https://a.example:8443")
    assert not same_origin("https://a.example", "https://a.example.evil.com")


BYTES = bytes(range(256)) * 400
Answering = Callable[[web.Request, int], Awaitable[web.StreamResponse]]


async def _downloaded(http: ProviderHttp, answering: Answering) -> tuple[bytes, list[web.Request]]:
    """What a download gives, and the requests it took; *answering* is told how many came before."""
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        return await answering(request, len(seen) - 1)

    async with (
        listening(handler) as url,
        http.download(
            f"{url}/video", home=url, credential={"Authorization": "Bearer k"}, refusal=refusal
        ) as stream,
    ):
        return b"".join([chunk async for chunk in stream.chunks]), seen


async def _cut(
    request: web.Request, begin: int, end: int, headers: dict[str, str], *, status: int = 200
) -> web.StreamResponse:
    """Promise everything from *begin* on and break off before *end*."""
    response = web.StreamResponse(status=status, headers=headers)
    response.content_length = len(BYTES) - begin
    await response.prepare(request)
    await response.write(BYTES[begin:end])
    if end < len(BYTES) and request.transport is not None:
        request.transport.close()
    return response


async def test_a_download_that_breaks_is_taken_up_where_it_broke(http: ProviderHttp) -> None:
    breaks = [30_000, 60_000, len(BYTES)]

    async def answering(request: web.Request, before: int) -> web.StreamResponse:
        begin = request.http_range.start or 0
        headers = {"ETag": '"v1"'}
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(BYTES) - 1}/{len(BYTES)}"
        status = 206 if begin else 200
        return await _cut(request, begin, breaks[before], headers, status=status)

    data, seen = await _downloaded(http, answering)

    assert data == BYTES
    assert [request.headers.get("Range") for request in seen] == [
        None,
        "bytes=30000-",
        "bytes=60000-",
    ]
    assert {request.headers.get("If-Range") for request in seen[1:]} == {'"v1"'}
    assert {request.headers["Authorization"] for request in seen} == {"Bearer k"}


@pytest.mark.parametrize(
    "headers",
    [{}, {"ETag": 'W/"v1"'}, {"ETag": '"v1"', "Accept-Ranges": "none"}],
    ids=["no version", "a weak version", "no ranges"],
)
async def test_a_download_whose_rest_cannot_be_proven_is_not_taken_up(
    http: ProviderHttp, headers: dict[str, str]
) -> None:
    async def answering(request: web.Request, _: int) -> web.StreamResponse:
        assert "Range" not in request.headers
        return await _cut(request, 0, 30_000, headers)

    with pytest.raises(ResultInvalidError, match="broke off after 30000 bytes"):
        await _downloaded(http, answering)


@pytest.mark.parametrize("status", [200, 206, 404, 500])
async def test_what_is_not_the_rest_is_not_taken_for_it(http: ProviderHttp, status: int) -> None:
    async def answering(request: web.Request, before: int) -> web.StreamResponse:
        if before == 0:
            return await _cut(request, 0, 30_000, {"ETag": '"v1"'})
        headers = {"ETag": '"v2"', "Content-Range": f"bytes 0-{len(BYTES) - 1}/{len(BYTES)}"}
        return web.Response(body=BYTES, status=status, headers=headers)

    with pytest.raises(ResultInvalidError, match="broke off after 30000 bytes"):
        await _downloaded(http, answering)


async def test_a_download_that_never_gets_on_is_given_up(http: ProviderHttp) -> None:
    async def answering(request: web.Request, before: int) -> web.StreamResponse:
        if before == 0:
            return await _cut(request, 0, 30_000, {"ETag": '"v1"'})
        assert request.transport is not None
        request.transport.close()
        return web.Response()

    with pytest.raises(ResultInvalidError, match="broke off after 30000 bytes"):
        await _downloaded(http, answering)
