"""
Our one way out over HTTP, for whatever is named from outside: images, results, webhooks.

What every request has in common stands here, so that no caller can forget it: redirects are told to
the caller and never followed, the environment is not asked for proxies or `.netrc`, cookies are not
kept, and no connection is waited for longer than ten seconds. How long an answer may take and be is
said by whoever asks.

With a `Guard` a client connects to public addresses only. It judges twice: the addresses a name
has, and at last the very one a socket is made for, whichever way it came there.
"""

import socket
import ssl
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from vidgen import webhook

CONNECT_S = 10.0
READ_BUFFER_BYTES = 128 * 1024
MAX_TLS_HOSTS = 64  # of which a session is kept, some 10 KiB each


class ForbiddenAddressError(OSError):
    """A foreign origin at a private address; an OSError, so that aiohttp lets it through whole."""


class PublicResolver(AbstractResolver):
    """
    Resolves to public addresses only.

    The connector connects to exactly what this returns, so that a name cannot change its address
    between the check and the connection. A subclass because aiohttp asks for one.
    """

    def __init__(self, inner: AbstractResolver, is_public: Callable[[str], bool]) -> None:
        """Ask *inner*, and leave out what is not public."""
        self._inner = inner
        self._is_public = is_public

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """
        The public ones of the addresses of *host*.

        Raises:
            ForbiddenAddressError: It has addresses, and none of them is public.
        """
        found = await self._inner.resolve(host, port, family)
        public = [address for address in found if self._is_public(address["host"])]
        if found and not public:
            raise ForbiddenAddressError(host)
        return public

    async def close(self) -> None:
        """Let go of what was opened."""
        await self._inner.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """
    Where a client may connect to.

    Attributes:
        is_public: Whether an address may be connected to.
        resolver: Finds the addresses of a name.
    """

    is_public: Callable[[str], bool] = webhook.is_public
    resolver: Callable[[], AbstractResolver] = aiohttp.DefaultResolver

    def socket_for(self, found: tuple[Any, ...]) -> socket.socket:
        """
        A socket for the address that is about to be connected to.

        Raises:
            ForbiddenAddressError: It is not a public one.
        """
        family, kind, protocol, _, address = found
        if not self.is_public(address[0]):
            raise ForbiddenAddressError(address[0])
        return socket.socket(family=family, type=kind, proto=protocol)


PUBLIC = Guard()


class ResumingContext(ssl.SSLContext):
    """
    Takes up the TLS session of the connection before to the same host, as browsers do.

    Python leaves that to whoever connects, and aiohttp does not do it. Measured: a new connection
    takes 1.2 ms of CPU instead of 1.5, and each submit has one. No data goes with the first flight
    (0-RTT), so nothing that is paid can be sent twice by whoever listens.
    """

    def __init__(self, _: int) -> None:
        """Trust whom the machine trusts, as `ssl.create_default_context` does."""
        self._latest: OrderedDict[str | bytes | None, ssl.SSLObject] = OrderedDict()
        self._sessions: OrderedDict[str | bytes | None, ssl.SSLSession] = OrderedDict()
        self.load_default_certs()
        self.set_alpn_protocols(["http/1.1"])
        if sys.version_info >= (3, 13):
            self.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As asyncio and uvloop call it for each connection."""
        latest = self._latest.pop(server_hostname, None)
        # A session comes some time after the handshake. One of a handshake that failed is none: its
        # certificate was never proven, and whoever takes it up is not asked for one again.
        if latest is not None and latest.version() is not None and latest.session is not None:
            self._sessions[server_hostname] = latest.session
        made = super().wrap_bio(
            incoming,
            outgoing,
            server_side,
            server_hostname,
            session or self._sessions.get(server_hostname),
        )
        self._latest[server_hostname] = made
        for kept in (self._latest, self._sessions):
            while len(kept) > MAX_TLS_HOSTS:
                kept.popitem(last=False)
        return made


class Client:
    """
    A pool of connections, opened when first needed.

    Args:
        guard: None where an operator has said where to go: then every address is allowed.
        fresh: Each request takes a connection of its own.
    """

    def __init__(
        self,
        *,
        guard: Guard | None,
        max_connections: int,
        user_agent: str = "vidgen",
        fresh: bool = False,
    ) -> None:
        """Open nothing yet."""
        self._guard = guard
        self._max_connections = max_connections
        self._user_agent = user_agent
        self._fresh = fresh
        self._session: aiohttp.ClientSession | None = None
        self._tls: ResumingContext | None = None

    async def __aenter__(self) -> Self:
        """Nothing to do: what is needed is opened then."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close every connection."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def request(
        self,
        method: str,
        url: URL,
        *,
        headers: Mapping[str, str],
        data: bytes | aiohttp.Payload | None = None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  four of them, which only aiohttp can keep
    ) -> aiohttp.ClientResponse:
        """
        Send one request; the answer has to be closed, and its body is not read yet.

        Raises:
            ForbiddenAddressError: Perhaps within aiohttp's own: the guard refused the address.
            aiohttp.ClientError, TimeoutError, OSError: No answer came.
        """
        if self._session is None:
            self._session = self._opened()
        if self._tls is None and url.scheme == "https":  # 20 ms: a thousand files are read
            self._tls = ResumingContext(ssl.PROTOCOL_TLS_CLIENT)
        return await self._session.request(
            method,
            url,
            headers=headers,
            data=data,
            allow_redirects=False,
            timeout=timeout,
            ssl=self._tls or True,
        )

    def _opened(self) -> aiohttp.ClientSession:
        guard = self._guard
        connector = aiohttp.TCPConnector(
            limit=self._max_connections,
            force_close=self._fresh,
            resolver=PublicResolver(guard.resolver(), guard.is_public) if guard else None,
            socket_factory=guard.socket_for if guard else None,
        )
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": self._user_agent},
            read_bufsize=READ_BUFFER_BYTES,
            trust_env=False,  # a proxy would connect for us, to wherever; .netrc has passwords
        )


def is_forbidden(error: Exception) -> bool:
    """Whether *error* says that the guard refused an address."""
    return isinstance(getattr(error, "os_error", error), ForbiddenAddressError)
