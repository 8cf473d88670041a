"""
Who may do what: tokens with roles, a cookie for the page, and nobody from other sites.

    read       everything that changes nothing
    operate    everything

Without any token the server listens on loopback only (see `app.serving`), and whoever is there may
do everything; then only local names are answered, so that no page of the internet can reach us by
a name that it lets point here.
"""

import asyncio
import base64
import hashlib
import hmac
import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from aiohttp import web
from loguru import logger
from yarl import URL

from vidgen import metrics
from vidgen.server.address import address_of, subscriber
from vidgen.server.problem import problem
from vidgen.server.quota import Quota
from vidgen.settings import AdminToken, Role, Settings, tokens_of

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

COOKIE = "vidgen_session"
SESSION_KEPT = timedelta(hours=12)
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_FAILURES = 20
FAILURES_FORGOTTEN_AFTER_S = 60.0
MAX_ADDRESSES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Visitor:
    """Who asks, and what they may do."""

    name: str
    role: Role

    def may(self, method: str) -> bool:
        """Whether the role covers requests by *method*."""
        return self.role == "operate" or method in SAFE_METHODS


LOCAL = Visitor(name="local", role="operate")


class Access:
    """The door: who has which key, and who knocked too often with a wrong one."""

    def __init__(self, settings: Settings) -> None:
        """Know the tokens of *settings*."""
        self._tokens: tuple[AdminToken, ...] = ()
        if settings.admin_token is not None:
            token = settings.admin_token.get_secret_value()
            self._tokens += (AdminToken(name="admin", role="operate", token=token),)
        if settings.admin_tokens is not None:
            self._tokens += tokens_of(settings.admin_tokens.get_secret_value())
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._by_name = Quota(settings.http_requests_per_min)
        self._by_address = Quota(settings.http_requests_per_min_per_address)

    @property
    def is_open(self) -> bool:
        """Nobody needs a token."""
        return not self._tokens

    def by_token(self, token: str) -> Visitor | None:
        """Whose *token* is; every token is compared, in constant time."""
        given = token.encode(errors="surrogateescape")
        found = None
        for known in self._tokens:
            if hmac.compare_digest(given, known.token.encode()):
                found = Visitor(name=known.name, role=known.role)
        return found

    def session(self, visitor: Visitor, now: datetime) -> str:
        """What the cookie of *visitor* holds; worthless once its token is changed."""
        told = f"{round((now + SESSION_KEPT).timestamp())}.{_coded(visitor.name.encode())}"
        return f"{told}.{self._signature(visitor.name, told)}"

    def by_session(self, cookie: str, now: datetime) -> Visitor | None:
        """Who got this cookie, if it still holds."""
        told, _, signature = cookie.rpartition(".")
        until, _, coded = told.partition(".")
        name = _decoded(coded)
        if not (until.isascii() and until.isdigit()) or len(until) > 12 or name is None:
            return None
        expected = self._signature(name, told)
        if not expected or not hmac.compare_digest(signature.encode(), expected.encode()):
            return None
        if int(until) < now.timestamp():
            return None
        return next(
            Visitor(name=known.name, role=known.role)
            for known in self._tokens
            if known.name == name
        )

    def busy_s(self, visitor: Visitor | None, address: str) -> float:
        """Count a request; how long *visitor*, or else *address*, has to wait for the next one."""
        now = asyncio.get_running_loop().time()
        if visitor is not None:
            return self._by_name.wait_s(visitor.name, now)
        return self._by_address.wait_s(subscriber(address), now)

    def note_failure(self, address: str) -> None:
        """Remember a wrong token from *address*."""
        now, address = asyncio.get_running_loop().time(), subscriber(address)
        count, until = self._failures.pop(address, (0, 0.0))
        count = count + 1 if now < until else 1
        self._failures[address] = (count, now + FAILURES_FORGOTTEN_AFTER_S)
        if len(self._failures) > MAX_ADDRESSES:
            self._failures.popitem(last=False)

    def wait_s(self, address: str) -> float:
        """How long *address* has to wait before it may try another token."""
        count, until = self._failures.get(subscriber(address), (0, 0.0))
        left_s = until - asyncio.get_running_loop().time()
        return max(left_s, 0.0) if count >= MAX_FAILURES else 0.0

    def _signature(self, name: str, told: str) -> str:
        token = next((known.token for known in self._tokens if known.name == name), None)
        if token is None:
            return ""
        key = hashlib.sha256(b"vidgen session\0" + token.encode()).digest()
        return _coded(hmac.digest(key, told.encode(), "sha256"))


ACCESS = web.AppKey("access", Access)
VISITOR = web.RequestKey("visitor", Visitor)
# Asked by orchestrators and providers, under whatever name they have for us.
PROBES = frozenset({"/livez", "/readyz", "/api/health/worker"})
WEBHOOKS = "/api/webhooks/"
OPEN = PROBES | {"/", "/api/login", "/api/me"}
OPEN_FOLDERS = ("/assets/", WEBHOOKS)


@web.middleware
async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let through whoever may, and tell everybody else why not."""
    access = request.app[ACCESS]
    if (refused := _foreign(request, access)) is not None:
        return refused
    visitor, by_cookie = _visitor(request, access)
    if request.path not in PROBES:
        wait_s = access.busy_s(visitor, address_of(request))
        if wait_s:
            return _too_busy(request, visitor, wait_s)
    if visitor is not None:
        request[VISITOR] = visitor
        if by_cookie and (refused := _forged(request)) is not None:
            return refused
    if request.path in OPEN or request.path.startswith(OPEN_FOLDERS):
        return await handler(request)
    if visitor is None:
        return _unknown(request, access)
    if not visitor.may(request.method):
        logger.warning("role too low", who=visitor.name, path=request.path)
        return problem(403, "forbidden", f"the role {visitor.role} may look and not act")
    return await handler(request)


def visitor_of(request: web.Request) -> Visitor | None:
    """Who asks; None on open paths without a token."""
    return request.get(VISITOR)


def _visitor(request: web.Request, access: Access) -> tuple[Visitor | None, bool]:
    """Who asks, and whether a browser says so by itself."""
    if access.is_open:
        return LOCAL, True
    address = address_of(request)
    token = _token(request)
    if token is not None:
        if access.wait_s(address):
            return None, False
        visitor = access.by_token(token)
        if visitor is None:
            access.note_failure(address)
        return visitor, False
    cookie = request.cookies.get(COOKIE)
    return (None, False) if cookie is None else (access.by_session(cookie, datetime.now(UTC)), True)


def _token(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _too_busy(request: web.Request, visitor: Visitor | None, wait_s: float) -> web.Response:
    metrics.HTTP_REFUSALS.labels("rate").inc()
    logger.info(
        "too many requests",
        who=visitor.name if visitor is not None else None,
        path=request.path,
        address=address_of(request),
    )
    whose = "with this token" if visitor is not None else "from this address without a token"
    return problem(
        429,
        "too_many_requests",
        f"more requests came {whose} than are allowed in a minute",
        Retry_After=str(math.ceil(wait_s)),
    )


def _unknown(request: web.Request, access: Access) -> web.Response:
    logger.warning("request without a valid token", path=request.path, address=address_of(request))
    wait_s = access.wait_s(address_of(request))
    if wait_s and _token(request) is not None:  # whoever brings none tries none
        return problem(
            429,
            "too_many_failures",
            "too many wrong tokens came from this address",
            Retry_After=str(round(wait_s + 0.5)),
        )
    return problem(
        401,
        "unauthorized",
        "this needs `Authorization: Bearer ADMIN_TOKEN`",
        WWW_Authenticate="Bearer",
    )


def _foreign(request: web.Request, access: Access) -> web.Response | None:
    if not access.is_open or _host(request) in LOCAL_HOSTS:
        return None
    if request.path in PROBES or request.path.startswith(WEBHOOKS):
        return None
    logger.warning("request by a foreign name without ADMIN_TOKEN", path=request.path)
    return problem(
        403,
        "forbidden_host",
        "without ADMIN_TOKEN only localhost is answered, so that no other site can come in by a"
        " name of its own",
    )


def _forged(request: web.Request) -> web.Response | None:
    """What browsers send for another site is refused, unless it only looks."""
    if request.method in SAFE_METHODS:
        return None
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    if site in {"same-origin", "none"}:
        return None
    if site is None and (origin is None or _authority(origin) == request.host):
        return None
    logger.warning("request from another site", path=request.path, site=site)
    return problem(403, "cross_site", "this request was made by a page of another site")


def _authority(origin: str) -> str:
    try:
        return URL(origin).authority
    except ValueError:
        return ""


def _host(request: web.Request) -> str:
    try:
        return URL(f"http://{request.host}").host or ""
    except ValueError:
        return ""


def _coded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> str | None:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode()
    except ValueError:
        return None
