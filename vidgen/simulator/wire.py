"""
What all simulated wire formats share: reading a request, misbehaving as scripted, sending a clip.

`submit` and `look` are the two ways through a simulator; each calls back into the wire format for
its good answer and for its own way of writing a refusal.
"""

import asyncio
import base64
import binascii
import hashlib
import zlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import assert_never
from uuid import uuid4

import orjson
from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator import clips, faults
from vidgen.simulator.control import Drawn, Generation, ProviderSimulator, Received, Wish, refunded
from vidgen.simulator.faults import Deed, Outcome, Refusal

FOREVER_S = 3600.0  # longer than any client waits; the server's shutdown cuts it
_PAGE = "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>"
_PIECE_BYTES = 64 * 1024
_RECORDED_BYTES = 1024 * 1024  # of larger JSON bodies the long strings (images) are cut

Refuse = Callable[[Refusal], web.StreamResponse]


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadedFile:
    """One file of a form."""

    filename: str
    content_type: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """
    A request with its body read.

    Attributes:
        json: The parsed JSON body; None for a form, an empty body and one that is not JSON.
        fields: The text fields of a form, None if the body is no form.
    """

    request: web.Request
    json: JsonValue = None
    fields: Mapping[str, str] | None = None
    files: Mapping[str, UploadedFile] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The credential that came along, whichever way it came."""
        headers = self.request.headers
        scheme, _, bearer = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return bearer.strip()
        named = headers.get("api-key") or headers.get("x-goog-api-key")
        return named or self.request.query.get("key", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedWire:
    """
    One wire format as the server of simulators takes it in.

    Attributes:
        routes: Its handlers, for its simulator and for the host that is foreign to it.
        addresses: The variables that lead vidgen to it, and to where, once its `origin` is known.
        at_root: Its paths are its own among all simulators; else they begin with its name, and its
            `origin` has that in it.
        tokens_of: The simulator whose access tokens open this one, too; None has tokens of its own.
        failure_cost: What is billed in micro-dollars for a wish that ended so; by default nothing,
            unless there was a video.
    """

    routes: Callable[[ProviderSimulator, ProviderSimulator], Iterable[web.RouteDef]]
    addresses: Callable[[ProviderSimulator], Mapping[str, str]]
    at_root: bool = False
    tokens_of: str | None = None
    failure_cost: Callable[[Wish, Outcome], int] = refunded


Answer = Callable[[Incoming], Awaitable[web.StreamResponse]]


def serve(
    simulator: ProviderSimulator, deed: Deed | None, answer: Answer
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """An aiohttp handler that reads and records the request before *answer* sees it."""

    async def handle(request: web.Request) -> web.StreamResponse:
        incoming = await _read(request)
        simulator.record(
            Received(
                deed=deed,
                method=request.method,
                path=request.path,
                query=dict(request.query),
                headers={name.lower(): value for name, value in request.headers.items()},
                body=_body(incoming),
                at=asyncio.get_running_loop().time(),
                host=request.host,
            )
        )
        return await answer(incoming)

    return handle


def project_of(simulator: ProviderSimulator, key: str) -> str | None:
    """The project *key* belongs to (what follows an `@` in it), None if the key is not accepted."""
    accepted = not key.startswith("wrong") if simulator.keys is None else key in simulator.keys
    if not key or not accepted:
        return None
    return key.partition("@")[2]


def json_answer(
    data: JsonValue, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """*data* as a JSON response."""
    return web.Response(
        body=orjson.dumps(data), status=status, content_type="application/json", headers=headers
    )


async def submit(
    incoming: Incoming,
    simulator: ProviderSimulator,
    wish: Wish,
    *,
    refuse: Refuse,
    answer: Callable[[Generation], web.StreamResponse],
) -> web.StreamResponse:
    """Accept and bill *wish* and answer, unless the script wants one of them otherwise."""
    try:
        drawn = simulator.draw("submit", prompt=wish.prompt)
    except ValueError as error:  # a directive in the prompt that nobody understands
        return refuse(Refusal(status=400, message=str(error), param="prompt"))
    await asyncio.sleep(drawn.number("late"))
    at = asyncio.get_running_loop().time()
    if drawn.outcome is None:
        return answer(simulator.accept(wish, at=at))
    accepted = faults.after_acceptance(drawn.outcome)
    if accepted is not None:
        simulator.accept(wish, at=at)
    return await misbehave(incoming.request, accepted or drawn.outcome, refuse=refuse)


async def look(
    incoming: Incoming,
    simulator: ProviderSimulator,
    generation: Generation,
    *,
    refuse: Refuse,
    answer: Callable[[Generation, Drawn], Awaitable[web.StreamResponse]],
) -> web.StreamResponse:
    """Show where *generation* stands, unless the script wants something else seen."""
    drawn = simulator.draw("poll", prompt=generation.wish.prompt, operation_id=generation.id)
    await asyncio.sleep(drawn.number("late"))
    if drawn.outcome is not None:
        return await misbehave(incoming.request, drawn.outcome, refuse=refuse)
    return await answer(generation, drawn)


async def obey(
    incoming: Incoming, simulator: ProviderSimulator, deed: Deed, *, refuse: Refuse
) -> web.StreamResponse | None:
    """What the script wants in place of the answer to a deed without a prompt; None if nothing."""
    drawn = simulator.draw(deed)
    await asyncio.sleep(drawn.number("late"))
    if drawn.outcome is None:
        return None
    return await misbehave(incoming.request, drawn.outcome, refuse=refuse)


async def misbehave(
    request: web.Request, outcome: Outcome, *, refuse: Refuse
) -> web.StreamResponse:
    """A refusal, a cut connection, or an answer that nobody can read."""
    refusal = faults.refusal(outcome)
    if refusal is not None:
        # What stands before the real servers answers a 502 itself, and it speaks HTML; or it is an
        # Envoy, and speaks plain text.
        if refusal.message.startswith(faults.BROKEN_OFF):
            return web.Response(text=refusal.message, status=503, headers={"server": "envoy"})
        return _page("502 Bad Gateway", status=502) if refusal.status == 502 else refuse(refusal)
    match outcome.name:
        case "disconnect":
            return hang_up(request)
        case "hang":
            await asyncio.sleep(outcome.number(FOREVER_S))
            return hang_up(request)
        case "html":
            return _page("Please enable cookies")
        case "huge":
            return await _huge(request, round(outcome.number(16 * 1024 * 1024)))
        case name:
            return web.Response(body=_MALFORMED[name], content_type="application/json")


_MALFORMED: Mapping[str, bytes] = {
    "not-json": b"upstream answered: OK",
    "half-json": b'{"id": "video_68',
    "json-list": b'["video"]',
    "json-null": b"null",
    "empty": b"",
    "missing-id": b'{"object": "video", "status": "queued", "progress": 0}',
    "missing-status": b'{"id": "video_without_status", "object": "video"}',
}


def hang_up(request: web.Request) -> web.StreamResponse:
    """Cut the connection without another byte; the response is for aiohttp, nobody gets it."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def clip_of(simulator: ProviderSimulator, wish: Wish) -> bytes:
    """The clip of *wish*: the simulator's fixed one, else rendered in a thread."""
    if simulator.clip is not None:
        return simulator.clip
    return await asyncio.to_thread(
        partial(
            clips.render,
            wish.prompt,
            seconds=wish.seconds,
            width=wish.width,
            height=wish.height,
            audio=wish.audio,
            label=f"{simulator.name} simulator   {wish.model}",
        )
    )


async def deliver(
    incoming: Incoming,
    drawn: Drawn,
    make: Callable[[], Awaitable[bytes]],
    *,
    content_type: str,
    refuse: Refuse,
    elsewhere: str,
    foreign: str,
) -> web.StreamResponse:
    """
    Send what *make* gives as scripted: late, slow, cut, padded, or from another address.

    *elsewhere* is an address on this host, *foreign* one on another host.
    """
    request, outcome = incoming.request, drawn.outcome
    await asyncio.sleep(drawn.number("late"))
    match outcome.name if outcome else None:
        case None | "truncated" | "truncated-chunked" | "stall":
            data = await make()
            if outcome is None and not drawn.modifiers:
                return web.Response(body=data, content_type=content_type)
            size_bytes = max(round(drawn.number("size")), len(data))
            pieces = clips.padded_pieces(data, size_bytes)
            return await send(request, drawn, pieces, size_bytes, content_type=content_type)
        case "not-ready":
            assert outcome is not None
            return refuse(not_ready(round(outcome.number(404))))
        case "redirect":
            return _redirect(elsewhere)
        case "redirect-foreign":
            return _redirect(foreign)
        case "redirect-loop":
            hop = int(request.query.get("hop", "0")) + 1
            return _redirect(str(request.rel_url.update_query(hop=hop)))
        case _:
            assert outcome is not None
            return await misbehave(request, outcome, refuse=refuse)


async def deliver_generation(
    incoming: Incoming,
    simulator: ProviderSimulator,
    foreign: ProviderSimulator,
    generation: Generation,
    make: Callable[[], Awaitable[bytes]],
    *,
    refuse: Refuse,
) -> web.StreamResponse:
    """The MP4 of *generation* as the script wants it delivered, on this host or on *foreign*."""
    request, wish = incoming.request, generation.wish
    drawn = simulator.draw("content", prompt=wish.prompt, operation_id=generation.id)
    if "redirected" in request.query and drawn.outcome and drawn.outcome.name == "redirect":
        drawn = Drawn(modifiers=drawn.modifiers)  # the redirect has been made; here it ends
    return await deliver(
        incoming,
        drawn,
        make,
        content_type="video/mp4",
        refuse=refuse,
        elsewhere=str(request.rel_url.update_query(redirected=1)),
        foreign=f"{foreign.origin}/{simulator.name}/{generation.id}",
    )


def read_data_url(url: JsonValue) -> bytes | None:
    """The bytes of a `data:` URL, None if *url* is none that can be read."""
    head, _, encoded = url.partition(",") if isinstance(url, str) else ("", "", "")
    if not head.startswith("data:") or not head.endswith(";base64"):
        return None
    with suppress(binascii.Error):
        return base64.b64decode(encoded, validate=True)
    return None


def not_ready(status: int) -> Refusal:
    """The refusal of bytes that do not exist yet."""
    return Refusal(
        status=status,
        message="Video is not ready yet, use GET /v1/videos/{id} to check its status.",
        code="video_not_ready",
        word="FAILED_PRECONDITION" if status != 404 else "NOT_FOUND",
    )


async def send(
    request: web.Request,
    drawn: Drawn,
    pieces: Iterable[bytes],
    size_bytes: int,
    *,
    content_type: str,
) -> web.StreamResponse:
    """Stream *pieces*: at the scripted speed, in the scripted coding, and as far as scripted."""
    response = web.StreamResponse(headers={"Content-Type": content_type})
    cut = drawn.outcome.name if drawn.outcome else None
    if cut == "truncated-chunked" or not drawn.modifiers.keys().isdisjoint({"gzip", "no-length"}):
        response.enable_chunked_encoding()
    else:
        response.content_length = size_bytes
    if "gzip" in drawn.modifiers:
        response.headers["Content-Encoding"] = "gzip"
        pieces = _gzipped(pieces)
    begin = 0
    if "ranges" in drawn.modifiers or "ranges-changing" in drawn.modifiers:
        begin = _offer_ranges(request, drawn, response, size_bytes)
        pieces = _without(pieces, begin)
        size_bytes -= begin
    await response.prepare(request)
    limit = size_bytes if drawn.outcome is None else round(drawn.outcome.number(0.5) * size_bytes)
    speed = drawn.number("slow")
    sent = 0
    for piece in _recut(pieces, _PIECE_BYTES if speed == 0 else max(round(speed / 20), 1)):
        if cut is not None and sent + len(piece) >= limit:
            await response.write(piece[: limit - sent])
            return await _cut(request, cut)
        await response.write(piece)
        sent += len(piece)
        await asyncio.sleep(len(piece) / speed if speed else 0)
    await response.write_eof()
    return response


def _offer_ranges(
    request: web.Request, drawn: Drawn, response: web.StreamResponse, size_bytes: int
) -> int:
    """Let a broken download be taken up again (RFC 9110, section 14); from which byte it is."""
    version = uuid4() if "ranges-changing" in drawn.modifiers else size_bytes
    response.headers.update({"Accept-Ranges": "bytes", "ETag": f'"sim-{version}"'})
    begin = request.http_range.start or 0
    if begin == 0 or request.headers.get("If-Range") != response.headers["ETag"]:
        return 0
    response.set_status(206)
    response.headers["Content-Range"] = f"bytes {begin}-{size_bytes - 1}/{size_bytes}"
    response.content_length = size_bytes - begin
    return begin


def _without(pieces: Iterable[bytes], begin: int) -> Iterator[bytes]:
    """*pieces* from the byte *begin* on."""
    for piece in pieces:
        yield piece[begin:]
        begin = max(begin - len(piece), 0)


def base64_pieces(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The base64 text of *pieces* as one whole, piece by piece."""
    for piece in _recut(pieces, 3 * 16 * 1024):
        yield base64.b64encode(piece)


def _redirect(address: str) -> web.Response:
    return web.Response(status=302, headers={"Location": address})


def _page(title: str, *, status: int = 200) -> web.Response:
    return web.Response(text=_PAGE.format(title), status=status, content_type="text/html")


async def _cut(request: web.Request, how: str) -> web.StreamResponse:
    """End a body too early; `close` and not `abort`, so that what was written still arrives."""
    if how == "stall":
        await asyncio.sleep(FOREVER_S)
    if request.transport is not None:
        request.transport.close()
    return web.Response()


async def _huge(request: web.Request, size_bytes: int) -> web.StreamResponse:
    """Valid JSON of an absurd size, for those who read without a cap."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(b'{"id": "video_huge", "status": "queued", "padding": "')
    for _ in range(size_bytes // _PIECE_BYTES):
        await response.write(b"x" * _PIECE_BYTES)
    await response.write(b'"}')
    await response.write_eof()
    return response


def _gzipped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(1, wbits=31)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


def _recut(pieces: Iterable[bytes], size_bytes: int) -> Iterator[bytes]:
    """The same bytes in pieces of *size_bytes*, the last one shorter."""
    rest = bytearray()
    for piece in pieces:
        rest += piece
        while len(rest) >= size_bytes:
            yield bytes(rest[:size_bytes])
            del rest[:size_bytes]
    if rest:
        yield bytes(rest)


async def _read(request: web.Request) -> Incoming:
    kind = request.content_type
    if kind in {"multipart/form-data", "application/x-www-form-urlencoded"}:
        return _form(request, await request.post())
    body = await request.read()
    try:
        return Incoming(request=request, json=orjson.loads(body) if body else None)
    except orjson.JSONDecodeError:
        return Incoming(request=request)


def _form(
    request: web.Request, form: Mapping[str, str | bytes | bytearray | web.FileField]
) -> Incoming:
    fields: dict[str, str] = {}
    files: dict[str, UploadedFile] = {}
    for name, value in form.items():
        match value:
            case str():
                fields[name] = value
            case bytes() | bytearray():
                fields[name] = value.decode("utf-8", "replace")
            case web.FileField():
                files[name] = UploadedFile(
                    filename=value.filename,
                    content_type=value.content_type,
                    data=value.file.read(),
                )
            case _:
                assert_never(value)
    return Incoming(request=request, fields=fields, files=files)


def _body(incoming: Incoming) -> JsonValue:
    if incoming.fields is None:
        is_large = (incoming.request.content_length or 0) > _RECORDED_BYTES
        return _shortened(incoming.json) if is_large else incoming.json
    body: dict[str, JsonValue] = dict(incoming.fields)
    for name, file in incoming.files.items():
        body[name] = {
            "filename": file.filename,
            "content_type": file.content_type,
            "size_bytes": len(file.data),
            "sha256": hashlib.sha256(file.data).hexdigest(),
        }
    return body


def _shortened(value: JsonValue) -> JsonValue:
    """*value* without the bulk of strings that only images have."""
    match value:
        case str() if len(value) > 64 * 1024:
            return f"{value[:64]}… ({len(value)} characters)"
        case dict():
            return {name: _shortened(each) for name, each in value.items()}
        case list():
            return [_shortened(each) for each in value]
        case _:
            return value
