"""Who asks: AWS signature version 4, in headers, in the query and in the policy of a form."""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes

from aiohttp import web

from vidgen.simulator.s3.wire import S3Error

ALGORITHM = "AWS4-HMAC-SHA256"
UNSIGNED = "UNSIGNED-PAYLOAD"
MAX_SKEW = timedelta(minutes=15)
MAX_PRESIGNED_S = 7 * 24 * 3600
_HEADER = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=([^,\s]+),\s*SignedHeaders=([^,\s]+),\s*Signature=([0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The one account of the server."""

    access_key: str
    secret_key: str = field(repr=False)
    region: str

    def signing_key(self, day: str) -> bytes:
        """Derive the key that signs on *day*."""
        key = f"AWS4{self.secret_key}".encode()
        for step in (day, self.region, "s3", "aws4_request"):
            key = sign(key, step)
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """
    A request whose signature holds.

    Attributes:
        payload: What it says about its body: a sha256, `UNSIGNED-PAYLOAD` or a `STREAMING-…` word.
    """

    payload: str
    signature: str
    scope: str
    at: str
    key: bytes = field(repr=False)


def sign(key: bytes, text: str) -> bytes:
    """HMAC-SHA256, the only step there is."""
    return hmac.digest(key, text.encode(), "sha256")


def authorise(request: web.BaseRequest, account: Account, now: datetime) -> Signed:
    """
    Prove that the account signed this request.

    Raises:
        S3Error: It did not, or too long ago.
    """
    raw_path, _, raw_query = request.raw_path.partition("?")
    query = parse_qsl(raw_query, keep_blank_values=True)
    fields = dict(query)
    if "X-Amz-Algorithm" in fields:
        return _presigned(request, raw_path, query, fields, account, now)
    header = request.headers.get("Authorization")
    if header is None:
        raise S3Error(403, "AccessDenied", "Anonymous access is not allowed.")
    match = _HEADER.fullmatch(header.strip())
    if match is None:
        raise S3Error(400, "AuthorizationHeaderMalformed", "Only AWS4-HMAC-SHA256 is known here.")
    credential, names, signature = match.groups()
    at = request.headers.get("x-amz-date", "")
    if abs(_moment(at) - now) > MAX_SKEW:
        raise S3Error(403, "RequestTimeTooSkewed", "The clocks differ by more than 15 minutes.")
    payload = request.headers.get("x-amz-content-sha256", "")
    if not payload:
        raise S3Error(400, "InvalidRequest", "x-amz-content-sha256 is missing.")
    signed = _signed(account, credential, at, payload, signature)
    canonical = _canonical(request, raw_path, query, names.split(";"), payload, presigned=False)
    _compare(signed, canonical)
    return signed


def _presigned(
    request: web.BaseRequest,
    raw_path: str,
    query: list[tuple[str, str]],
    fields: Mapping[str, str],
    account: Account,
    now: datetime,
) -> Signed:
    try:
        credential, at = fields["X-Amz-Credential"], fields["X-Amz-Date"]
        names, signature = fields["X-Amz-SignedHeaders"], fields["X-Amz-Signature"]
        lasts_s = int(fields["X-Amz-Expires"])
    except (KeyError, ValueError) as error:
        raise S3Error(400, "AuthorizationQueryParametersError", "A part is missing.") from error
    if fields["X-Amz-Algorithm"] != ALGORITHM or not 0 < lasts_s <= MAX_PRESIGNED_S:
        raise S3Error(400, "AuthorizationQueryParametersError", "Wrong algorithm or duration.")
    payload = fields.get("X-Amz-Content-Sha256", "")
    payload = payload or request.headers.get("x-amz-content-sha256", "") or UNSIGNED
    signed = _signed(account, credential, at, payload, signature)
    rest = [pair for pair in query if pair[0] != "X-Amz-Signature"]
    canonical = _canonical(request, raw_path, rest, names.split(";"), payload, presigned=True)
    _compare(signed, canonical)
    starts = _moment(at)
    if now > starts + timedelta(seconds=lasts_s) or starts > now + MAX_SKEW:
        raise S3Error(403, "AccessDenied", "Request has expired")
    return signed


def _signed(account: Account, credential: str, at: str, payload: str, signature: str) -> Signed:
    access_key, _, scope = credential.partition("/")
    if access_key != account.access_key:
        raise S3Error(403, "InvalidAccessKeyId", "The access key does not exist here.")
    if scope != f"{at[:8]}/{account.region}/s3/aws4_request":
        raise S3Error(
            400, "AuthorizationHeaderMalformed", f"The region here is '{account.region}'."
        )
    return Signed(
        payload=payload,
        signature=signature,
        scope=scope,
        at=at,
        key=account.signing_key(at[:8]),
    )


def _compare(signed: Signed, canonical: str) -> None:
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    wanted = sign(signed.key, f"{ALGORITHM}\n{signed.at}\n{signed.scope}\n{digest}").hex()
    if not hmac.compare_digest(wanted, signed.signature):
        raise S3Error(403, "SignatureDoesNotMatch", "The signature does not match the request.")


def _canonical(
    request: web.BaseRequest,
    raw_path: str,
    query: list[tuple[str, str]],
    names: list[str],
    payload: str,
    *,
    presigned: bool,
) -> str:
    """Write the request in the one form that both sides sign."""
    unsigned = {
        name.lower()
        for name in request.headers
        if name.lower().startswith("x-amz-") and name.lower() not in names
    }
    if presigned:
        unsigned.discard("x-amz-content-sha256")
    if unsigned or "host" not in names:
        raise S3Error(403, "AccessDenied", "There were headers present which were not signed.")
    headers = "".join(
        f"{name}:{','.join(' '.join(v.split()) for v in request.headers.getall(name, ['']))}\n"
        for name in names
    )
    pairs = sorted((quote(k, safe="-_.~"), quote(v, safe="-_.~")) for k, v in query)
    path = quote(unquote_to_bytes(raw_path), safe="/-_.~")
    return "\n".join(
        (
            request.method,
            path,
            "&".join(f"{name}={value}" for name, value in pairs),
            headers,
            ";".join(names),
            payload,
        )
    )


def _moment(at: str) -> datetime:
    try:
        return datetime.strptime(at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise S3Error(403, "AccessDenied", "A valid x-amz-date is missing.") from error


def check_form(
    fields: Mapping[str, str], bucket: str, size_bytes: int, account: Account, now: datetime
) -> None:
    """
    Prove that the account allowed this form, by its signed policy.

    Raises:
        S3Error: It did not, or the form breaks a condition.
    """
    try:
        policy = json.loads(base64.b64decode(fields["policy"], validate=True))
        expires_at = datetime.fromisoformat(policy["expiration"])
        at, credential = fields["x-amz-date"], fields["x-amz-credential"]
        signature, conditions = fields["x-amz-signature"], list(policy["conditions"])
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise S3Error(403, "AccessDenied", "The form has no valid policy.") from error
    signed = _signed(account, credential, at, UNSIGNED, signature)
    if not hmac.compare_digest(sign(signed.key, fields["policy"]).hex(), signature):
        raise S3Error(403, "SignatureDoesNotMatch", "The policy is signed otherwise.")
    if now > expires_at:
        raise S3Error(403, "AccessDenied", "Invalid according to Policy: Policy expired.")
    actual = {**fields, "bucket": bucket}
    covered = {"policy", "x-amz-signature", "bucket"}
    for condition in conditions:
        covered.add(_check_condition(condition, actual, size_bytes))
    extra = {n for n in fields if n not in covered and not n.startswith("x-ignore-")}
    if extra:
        raise S3Error(403, "AccessDenied", f"Extra input fields: {', '.join(sorted(extra))}")


def _check_condition(condition: object, actual: Mapping[str, str], size_bytes: int) -> str:
    """Hold one condition of a policy against the form; the field it was about."""
    match condition:
        case ["content-length-range", int(least), int(most)]:
            if not least <= size_bytes <= most:
                code = "EntityTooLarge" if size_bytes > most else "EntityTooSmall"
                raise S3Error(400, code, "The size is outside of the policy's range.")
            return "content-length-range"
        case ["eq", str(name), str(value)]:
            name = name.lstrip("$").lower()
            good = actual.get(name) == value
        case ["starts-with", str(name), str(value)]:
            name = name.lstrip("$").lower()
            good = actual.get(name, "").startswith(value)
        case dict() if len(condition) == 1:
            ((name, value),) = condition.items()
            name = str(name).lower()
            good = actual.get(name) == value
        case _:
            raise S3Error(403, "AccessDenied", "The policy holds an unknown condition.")
    if not good:
        raise S3Error(403, "AccessDenied", f"Invalid according to Policy: {name}")
    return name


def decode_path(raw: str) -> str:
    """
    Give a path as text.

    Raises:
        S3Error: It is not UTF-8.
    """
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError as error:
        raise S3Error(400, "InvalidURI", "The path is not UTF-8.") from error
