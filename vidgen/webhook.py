"""
Webhooks as Standard Webhooks 1.0 wants them: their signatures, and the addresses they may go to.
Pure.

    webhook-id         the same for every try: whoever has seen it may stop there
    webhook-timestamp  unix seconds of this try
    webhook-signature  `v1,…` (HMAC-SHA256) or `v1a,…` (ed25519) of id.timestamp.body; one for each
                       secret, with a blank between
"""

import binascii
import hashlib
import hmac
import ipaddress
import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal
from urllib.parse import urlsplit

from vidgen.errors import WebhookInvalidError

TOLERANCE = timedelta(minutes=5)
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
SEED_BYTES = 32  # of an ed25519 key; often its public key, as long, stands behind it
MAX_ID_CHARS = 256
MAX_URL_CHARS = 2000

HMAC_SECRETS_WANTED = (
    f"whsec_ and base64 of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} random bytes, several with"
    " commas between"
)
SECRETS_WANTED = f"{HMAC_SECRETS_WANTED}; or whsk_ and base64 of an ed25519 key"

_WEB_ADDRESS = (
    f"must be an http or https address of at most {MAX_URL_CHARS} characters, without fragment and"
    " with all escaped that needs it"
)
_PRIVATE = "must not lead to a private address, unless VIDGEN_ALLOW_PRIVATE_ADDRESSES=true"
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*", re.IGNORECASE)  # what sockets take for IPv4
_MAX_HOST_CHARS = 253
_SIGNATURE = re.compile(r"v1a?,[A-Za-z0-9+/]{1,200}={0,2}")

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_LOW_32_BITS = 0xFFFFFFFF
# Inside of clouds these answer with what is not for everybody, though they pass for public.
_CLOUD_INTERNAL = (
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv4Network("168.63.129.16/32"),
)


class WebhookType(StrEnum):
    """What a receiver is told."""

    COMPLETED = "video.completed"
    FAILED = "video.failed"
    CANCELLED = "video.cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """
    What signs.

    Attributes:
        scheme: `v1` is HMAC-SHA256, whose receivers know the same secret; `v1a` is ed25519, whose
            receivers know the public key only.
    """

    scheme: Literal["v1", "v1a"]
    key: bytes = field(repr=False)


def secrets_of(text: str) -> tuple[Secret, ...]:
    """
    The secrets in *text*, with commas between.

    Raises:
        ValueError: One of them is none; the message does not repeat it.
    """
    return tuple(_secret(part.strip()) for part in text.split(","))


def sign(secrets: Sequence[Secret], webhook_id: str, timestamp_s: int, body: bytes) -> str:
    """The header `webhook-signature`, with one signature for each of *secrets*."""
    content = _signed_content(webhook_id, str(timestamp_s), body)
    return " ".join(
        f"{secret.scheme},{b64encode(_signature(secret, content)).decode()}" for secret in secrets
    )


def verify(
    secrets: Sequence[Secret],
    *,
    webhook_id: str,
    timestamp: str,
    signature: str,
    body: bytes,
    now: datetime,
) -> None:
    """
    Make sure that somebody who has one of *secrets* (all HMAC) sent this within five minutes.

    Raises:
        WebhookInvalidError: The sentence says what is wrong.
    """
    if not (0 < len(webhook_id) <= MAX_ID_CHARS and webhook_id.isprintable()):
        raise WebhookInvalidError("the header webhook-id is missing or unusable")
    if not re.fullmatch(r"[0-9]{1,12}", timestamp):
        raise WebhookInvalidError("the header webhook-timestamp is no unix time")
    if abs(now.timestamp() - int(timestamp)) > TOLERANCE.total_seconds():
        raise WebhookInvalidError("the webhook is too old, or from the future")
    given = [part.partition(",")[2] for part in signature.split(" ") if _SIGNATURE.fullmatch(part)]
    content = _signed_content(webhook_id, timestamp, body)
    # Every pair is compared, and each in constant time: neither which secret nor how much of it
    # was right shows.
    matches = [
        hmac.compare_digest(b64encode(_signature(secret, content)), text.encode())
        for secret in secrets
        for text in given
    ]
    if not any(matches):
        raise WebhookInvalidError("no signature of the webhook is right")


def refusal(url: object, *, allow_private: bool) -> str | None:
    """
    What *url* "must" be or not, so that something may be sent there; None if it is all right as far
    as the text tells.

    Names are resolved when something is sent; whoever sends must look at the addresses, too.
    """
    if not isinstance(url, str) or not 0 < len(url) <= MAX_URL_CHARS or not _is_plain(url):
        return _WEB_ADDRESS
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return _WEB_ADDRESS
    if parts.scheme not in {"http", "https"} or not host or port == 0:
        return _WEB_ADDRESS
    if "@" in parts.netloc:
        return "must carry no user and no password: the signature tells who sends"
    if "[" in parts.netloc or _NUMERIC.fullmatch(host.rstrip(".").rpartition(".")[2]):
        return _refusal_of_address(host, allow_private=allow_private)
    labels = host.removesuffix(".").split(".")
    if len(host) > _MAX_HOST_CHARS or not all(map(_LABEL.fullmatch, labels)):
        return "must name its host in ASCII (xn--… for other letters)"
    return _PRIVATE if labels[-1] == "localhost" and not allow_private else None


def is_public(address: str) -> bool:
    """
    Whether *address* is one that everybody reaches, and the same for everybody.

    Raises:
        ValueError: It is no address.
    """
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        carried = found.ipv4_mapped or found.sixtofour or _of_nat64(found)
        if carried is None:
            return found in _GLOBAL_UNICAST and not found.scope_id and found.is_global
        found = carried
    internal = any(found in network for network in _CLOUD_INTERNAL)
    return found.is_global and not found.is_multicast and not internal


def _of_nat64(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    return ipaddress.IPv4Address(int(address) & _LOW_32_BITS) if address in _NAT64 else None


def _refusal_of_address(host: str, *, allow_private: bool) -> str | None:
    try:
        public = is_public(host)
    except ValueError:
        return "must write an IP address in its usual form"
    if "%" in host:
        return "must name no network interface"
    return None if public or allow_private else _PRIVATE


def _is_plain(url: str) -> bool:
    return url.isascii() and url.isprintable() and not set(url) & set(' \\"#<>^`{|}')


def _secret(text: str) -> Secret:
    prefix, _, encoded = text.partition("_")
    try:
        key = b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(SECRETS_WANTED) from None
    if prefix == "whsec" and MIN_SECRET_BYTES <= len(key) <= MAX_SECRET_BYTES:
        return Secret(scheme="v1", key=key)
    if prefix == "whsk" and len(key) in {SEED_BYTES, 2 * SEED_BYTES}:
        secret = Secret(scheme="v1a", key=key[:SEED_BYTES])
        if key[SEED_BYTES:] in {b"", public_key(secret)}:
            return secret
    raise ValueError(SECRETS_WANTED)


def public_key(secret: Secret) -> bytes:
    """What receivers verify the signatures of an ed25519 *secret* with."""
    from nacl.signing import SigningKey  # most services have no such key, and libsodium is big

    return bytes(SigningKey(secret.key).verify_key)


def _signed_content(webhook_id: str, timestamp: str, body: bytes) -> bytes:
    return f"{webhook_id}.{timestamp}.".encode() + body


def _signature(secret: Secret, content: bytes) -> bytes:
    if secret.scheme == "v1":
        return hmac.digest(secret.key, content, hashlib.sha256)
    from nacl.signing import SigningKey

    return SigningKey(secret.key).sign(content).signature
