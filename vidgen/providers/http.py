"""
Our one way to speak HTTP with providers: bounded, timed, silent, and careful with keys and money.

A submit is paid, so its failures are told apart by one question: could the request have arrived?

    connection refused, no address, connect timeout    no       TransientError
    425, 429, 503, 521, 523, 529                       refused  TransientError, RateLimitedError
    307, 308: the same request, elsewhere              refused  InputRejectedError
    other 4xx, 501                                     refused  by what it says
    read timeout, cut, unreadable 2xx, 1xx, 301, 302,
    303 and other 3xx, 408, 409, 499, 500, 502, 504,
    other 5xx (so 522), and a 503 of Envoy's unless it
    says that it did not pass the request on           maybe    SubmitUnknownError

`answer.proves_nothing` says so of an answer. All but a submit may simply be asked again:
TransientError. Credentials go only to the configured origin: redirects are followed by hand, and
whatever a provider's answer points to elsewhere gets no key and, unless allowed, no private
address.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from io import BytesIO
from urllib.parse import urljoin

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from vidgen.errors import (
    InputRejectedError,
    ProtocolError,
    ProviderError,
    ResultInvalidError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.outgoing import CONNECT_S, PUBLIC, Client, Guard, is_forbidden
from vidgen.providers.answer import (
    ELSEWHERE_STATUSES,
    TRANSIENT_STATUSES,
    Answer,
    Deed,
    cleaned,
    proves_nothing,
)
from vidgen.providers.inline import shrink
from vidgen.providers.protocol import ResultStream

MAX_ANSWER_BYTES = 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
MAX_HOPS = 5
MAX_CONNECTIONS = 256
FETCH_TIMEOUT_S = 60.0
MAX_RESUMES = 3  # in a row without a new byte
FIRST_RESUME_S = 0.5

_Origin = tuple[str, str | None, int | None]
_ASK = aiohttp.ClientTimeout(total=60, connect=CONNECT_S, sock_read=30)
# As long as it takes, but never a minute of silence.
_DOWNLOAD = aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_read=60)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class ProviderHttp:
    """
    Connections to providers, opened when first needed.

    Three clients: one keeps connections to configured origins; one takes a fresh one for each
    submit, since a kept one that the peer is just closing would make a paid call ambiguous; and a
    guarded one goes to foreign origins, at public addresses only.
    """

    def __init__(
        self,
        *,
        allow_private_addresses: bool = False,
        submit_timeout_s: float = 120,
        guard: Guard = PUBLIC,
    ) -> None:
        """Open nothing yet; *submit_timeout_s* is for the whole of a paid call."""
        self._submit = aiohttp.ClientTimeout(total=submit_timeout_s, connect=CONNECT_S)
        self._kept = Client(guard=None, max_connections=MAX_CONNECTIONS)
        self._fresh = Client(guard=None, max_connections=MAX_CONNECTIONS, fresh=True)
        foreign = None if allow_private_addresses else guard
        self._foreign = Client(guard=foreign, max_connections=MAX_CONNECTIONS)

    async def aclose(self) -> None:
        """Close every connection."""
        for client in (self._kept, self._fresh, self._foreign):
            await client.aclose()

    async def exchange(
        self,
        deed: Deed,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        json: bytes | None = None,
        form: aiohttp.FormData | None = None,
        not_after: float | None = None,
        elide: bool = False,
    ) -> Answer:
        """
        Ask once, and give the answer whatever its status; *form* is used up by it.

        Args:
            not_after: The loop's time after which nothing may be sent any more.
            elide: The answer may hold a video as a text: read it without long texts.

        Raises:
            TransientError: Never arrived; or, unless it was a submit, no answer came.
            SubmitUnknownError: A submit that may have arrived.
            InputRejectedError: A submit that is to be sent elsewhere; nothing paid follows that.
            ProtocolError: An answer of more than 1 MiB.
        """
        if not_after is not None and asyncio.get_running_loop().time() > not_after:
            raise TransientError("The request was not sent: it would have come too late.")
        sent = {**headers, "Content-Type": "application/json"} if json is not None else headers
        body = _body(json, form, not_after)
        with _transport(deed, _host(url)):
            client = self._fresh if deed == "submit" else self._kept
            async with await client.request(
                method,
                URL(url, encoded=True),
                headers=sent,
                data=body,
                timeout=self._submit if deed == "submit" else _ASK,
            ) as response:
                answer = await (_read_elided(response) if elide else _read(response))
        if deed == "submit":
            _check(answer, _host(url))
        return answer

    @asynccontextmanager
    async def download(
        self,
        url: str,
        *,
        home: str,
        credential: Mapping[str, str],
        refusal: Callable[[Answer], Awaitable[ProviderError]],
        post: bytes | None = None,
        stay: bool = False,
    ) -> AsyncIterator[ResultStream]:
        """
        Open the bytes at *url*; *credential* headers go to the origin of *home* and nowhere else.

        Where the server allows it a connection that breaks is taken up again at the byte it broke.

        Args:
            refusal: Maps an answer that is not 200 to an error.
            post: Send this JSON instead of a plain GET; redirects are then not followed.
            stay: Follow none with a GET either.

        Raises:
            TransientError: Not reached.
            ProtocolError: An address or a redirect nobody should follow.
        """

        async def ask(part: Mapping[str, str]) -> aiohttp.ClientResponse:
            headers = {**credential, **part}
            at = _parse(url)
            if stay or post is not None:
                at_home = _origin(at) == _origin(_parse(home))
                return await self._open(at, headers if at_home else part, post, at_home=at_home)
            return await self._follow(at, _origin(_parse(home)), headers, part)

        response = await ask({})
        body = _Body(response, ask)
        try:
            if response.status != 200:
                with _transport("download", _host(url)):
                    answer = await _read(response, MAX_ERROR_BYTES)
                raise await refusal(answer)
            yield ResultStream(
                chunks=body.chunks(),
                content_type=cleaned(response.headers.get("Content-Type")) or None,
                size_bytes=body.size_bytes,
            )
        finally:
            body.close()

    async def fetch(self, url: str, *, max_bytes: int) -> bytes:
        """
        Get a whole small file that a customer named, as from a foreign origin: without any key.

        Raises:
            TransientError: Not reached, or a passing refusal.
            InputRejectedError: Not there, too big, or at an address that is not allowed.
        """

        async def refusal(answer: Answer) -> ProviderError:
            if answer.status in TRANSIENT_STATUSES or answer.status in {429, 502, 504, 522}:
                return TransientError(f"{_host(url)} answered {answer.status} for an input image.")
            return InputRejectedError(
                f"{_host(url)} answered {answer.status} for an input image.",
                http_status=answer.status,
            )

        data = bytearray()
        try:
            async with (
                asyncio.timeout(FETCH_TIMEOUT_S),
                self.download(
                    url, home="https://none.invalid", credential={}, refusal=refusal
                ) as stream,
            ):
                too_big = InputRejectedError(
                    f"The input image at {_host(url)} has more than {max_bytes} bytes."
                )
                if (stream.size_bytes or 0) > max_bytes:
                    raise too_big
                async for chunk in stream.chunks:
                    data += chunk
                    if len(data) > max_bytes:
                        raise too_big
        except TimeoutError as error:
            raise TransientError(f"{_host(url)} took too long with an input image.") from error
        except ProtocolError as error:
            raise InputRejectedError(
                f"An input image cannot be fetched: {error.message}"
            ) from error
        except ResultInvalidError as error:
            raise TransientError(f"An input image came only in part: {error.message}") from error
        return bytes(data)

    async def _follow(
        self,
        url: URL,
        home: _Origin,
        at_home_headers: Mapping[str, str],
        headers: Mapping[str, str],
    ) -> aiohttp.ClientResponse:
        at_home = True
        for _ in range(MAX_HOPS + 1):
            # Once away, always away: a way back could be laid by whoever we were sent to.
            at_home = at_home and _origin(url) == home
            sent = at_home_headers if at_home else headers
            response = await self._open(url, sent, None, at_home=at_home)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or location is None:
                return response
            response.close()
            target = _parse(location, base=url)
            if target.scheme not in {"https", url.scheme}:
                raise ProtocolError(f"{url.host} redirects from {url.scheme} to {target.scheme}.")
            url = target
        raise ProtocolError(f"The result is behind more than {MAX_HOPS} redirects.")

    async def _open(
        self, url: URL, sent: Mapping[str, str], post: bytes | None, *, at_home: bool
    ) -> aiohttp.ClientResponse:
        client = self._kept if at_home else self._foreign
        # A compressed body would not have the length that was announced for the video.
        headers = {"Accept-Encoding": "identity", **sent}
        if post is not None:
            headers["Content-Type"] = "application/json"
        with _transport("download", url.host or ""):
            return await client.request(
                "GET" if post is None else "POST",
                url,
                headers=headers,
                data=post,
                timeout=_DOWNLOAD,
            )


def same_origin(one: str, other: str) -> bool:
    """Whether both addresses have the same scheme, host and port."""
    return one == other or _origin(_parse(one)) == _origin(_parse(other))


def joined(base: str, address: str) -> str:
    """
    *address*, which may be relative, as seen from the folder *base*.

    Raises:
        ProtocolError: Nobody can read it.
    """
    try:
        return urljoin(f"{base}/", address)
    except ValueError as error:
        raise ProtocolError("The provider names an address nobody can read.") from error


def authority(url: str) -> str:
    """The host of *url*, with its port where that is not the scheme's own."""
    parsed = _parse(url)
    host = f"[{parsed.host}]" if ":" in (parsed.host or "") else parsed.host
    return f"{host}" if parsed.is_default_port() else f"{host}:{parsed.port}"


def _body(
    json: bytes | None, form: aiohttp.FormData | None, not_after: float | None
) -> aiohttp.Payload | None:
    content: aiohttp.Payload
    if json is not None:
        content = aiohttp.BytesIOPayload(BytesIO(json))  # sent piece by piece
    elif form is not None:
        content = form()
    else:
        return None
    return content if not_after is None else _Timely(content, not_after)


class _Timely(aiohttp.Payload):
    """
    A body of which nothing is sent after a moment; without all of it no server accepts the request.

    A process that was frozen while it connected, or amid a large image, must not go on and pay: its
    job may be another's.
    """

    _autoclose = True  # what is inside holds bytes only

    def __init__(self, content: aiohttp.Payload, not_after: float) -> None:
        super().__init__(content, headers=content.headers)
        self._content = content
        self._not_after = not_after

    @property
    def size(self) -> int | None:
        return self._content.size

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self._content.decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self._content.write(_TimelyWriter(writer, self._not_after))

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        await self._content.write_with_length(
            _TimelyWriter(writer, self._not_after), content_length
        )


class _TimelyWriter(AbstractStreamWriter):
    """The connection's writer while there is time. A subclass because aiohttp asks for one."""

    def __init__(self, inner: AbstractStreamWriter, not_after: float) -> None:
        self._inner = inner
        self._not_after = not_after

    async def write(self, chunk: bytes | bytearray | memoryview) -> None:
        if asyncio.get_running_loop().time() > self._not_after:
            raise TimeoutError("too late to send")
        await self._inner.write(chunk)

    async def write_eof(self, chunk: bytes = b"") -> None:
        await self._inner.write_eof(chunk)

    async def drain(self) -> None:
        await self._inner.drain()

    def enable_compression(self, encoding: str = "deflate", strategy: int | None = None) -> None:
        self._inner.enable_compression(encoding, strategy)

    def enable_chunking(self) -> None:
        self._inner.enable_chunking()

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        await self._inner.write_headers(status_line, headers)


@contextmanager
def _transport(deed: Deed, host: str) -> Iterator[None]:
    """Map what aiohttp raises to our errors, by whether the request may have arrived."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        if is_forbidden(error):
            raise _forbidden(host) from error
        raise TransientError(f"{host} could not be reached ({type(error).__name__}).") from error
    except aiohttp.InvalidURL as error:
        raise ProtocolError(f"{host}: an address that cannot be used.") from error
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        if deed == "submit":
            raise SubmitUnknownError(
                f"{host} gave no answer to the submit ({type(error).__name__}): it may have"
                " arrived."
            ) from error
        raise TransientError(f"{host} gave no answer ({type(error).__name__}).") from error
    except ProtocolError as error:
        if deed == "submit":
            raise SubmitUnknownError(f"The submit may have arrived: {error.message}") from error
        raise


def _forbidden(host: str) -> ProtocolError:
    return ProtocolError(
        f"{host}, or where it points, is a private address; VIDGEN_ALLOW_PRIVATE_ADDRESSES=true"
        " allows them."
    )


async def _read(response: aiohttp.ClientResponse, cap: int = MAX_ANSWER_BYTES) -> Answer:
    refused = response.status >= 300
    cap = min(cap, MAX_ERROR_BYTES) if refused else cap
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > cap:
                response.close()
                break
    except (aiohttp.ClientError, TimeoutError):
        if not refused:  # a refusal is one by its status, even if its text is cut
            raise
    if len(body) > cap and not refused:
        raise ProtocolError(f"An answer of more than {cap} bytes came.", http_status=200)
    headers: CIMultiDictProxy[str] = response.headers
    return Answer(status=response.status, headers=headers, body=bytes(body[:cap]))


async def _read_elided(response: aiohttp.ClientResponse) -> Answer:
    if response.status >= 300:
        return await _read(response)
    body = await shrink(response.content.iter_any())
    return Answer(status=response.status, headers=response.headers, body=body)


class _Body:
    """
    The bytes of a download, over as many connections as it takes.

    Taken up again only where that provably gives the rest of the same bytes: the server announced
    the length, and names them by a strong ETag or by a date (RFC 9110, sections 13.1.5 and 14).
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        ask: Callable[[Mapping[str, str]], Awaitable[aiohttp.ClientResponse]],
    ) -> None:
        """*ask* opens the same address again with more headers."""
        self._response = response
        self._ask = ask
        encoded = "Content-Encoding" in response.headers
        self.size_bytes = None if encoded else response.content_length
        self._version = _version(response)

    def close(self) -> None:
        """Close the connection that is open now."""
        self._response.close()

    async def chunks(self) -> AsyncIterator[bytes]:
        """
        All bytes in order.

        Raises:
            ResultInvalidError: The connection broke, and cannot be taken up again.
        """
        received, broken = 0, 0
        while True:
            try:
                content = self._response.content
                async for chunk, _ in content.iter_chunks():
                    if not chunk and content.at_eof():
                        # aiohttp 3.14 has one empty body for all answers, whose chunks end only
                        # the first time; from then on nobody else would run. Drop when they do.
                        break
                    received += len(chunk)
                    broken = 0
                    yield chunk
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                broken += 1
                if broken > MAX_RESUMES or not await self._resume(received, broken):
                    raise ResultInvalidError(
                        f"The download broke off after {received} bytes ({type(error).__name__})."
                    ) from error
            else:
                return

    async def _resume(self, received: int, broken: int) -> bool:
        if self._version is None or self.size_bytes is None or not received < self.size_bytes:
            return False
        self._response.close()
        await asyncio.sleep(FIRST_RESUME_S * 2 ** (broken - 1))
        wanted = {"Range": f"bytes={received}-", "If-Range": self._version}
        try:
            self._response = await self._ask(wanted)
        except TransientError:
            return True  # the closed response says so once more, until there were enough tries
        promised = f"bytes {received}-{self.size_bytes - 1}/{self.size_bytes}"
        is_rest = self._response.headers.get("Content-Range", "").strip() == promised
        return self._response.status == 206 and is_rest


def _version(response: aiohttp.ClientResponse) -> str | None:
    """What If-Range may name these bytes by; None if nothing proves that they stay the same."""
    if response.method != "GET" or response.headers.get("Accept-Ranges") == "none":
        return None
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified")


def _parse(url: str, base: URL | None = None) -> URL:
    try:
        parsed = URL(url) if base is None else base.join(URL(url))
        # Not `user`: a password alone is one, too.
        usable = (
            parsed.scheme in {"http", "https"}
            and bool(parsed.host)
            and "@" not in parsed.raw_authority
        )
    except ValueError as error:
        raise ProtocolError("The provider names an address nobody can read.") from error
    if not usable:
        raise ProtocolError("The provider names an address that is no plain http(s) one.")
    return parsed


def _origin(url: URL) -> _Origin:
    # Not yarl's own: it tells an explicit default port from an implicit one.
    return url.scheme, url.host, url.port


def _check(answer: Answer, host: str) -> None:
    """Return if the answer to a submit is a receipt, or a refusal that says why."""
    if proves_nothing(answer):
        raise SubmitUnknownError(
            f"{host} answered {answer.status} to the submit: the request may have been accepted"
            " all the same.",
            http_status=answer.status,
            request_id=answer.request_id,
        )
    if answer.status in ELSEWHERE_STATUSES:
        raise InputRejectedError(
            f"{host} wants the submit sent to another address ({answer.status}), and no key and no"
            " paid request follows that: set the base URL to where it leads.",
            http_status=answer.status,
            request_id=answer.request_id,
        )


def _host(url: str) -> str:
    with suppress(ValueError):
        return URL(url).host or "the provider"
    return "the provider"
