"""
The Google Cloud around Vertex AI: access tokens for service accounts, and the bucket.

    POST /token                                        a signed assertion for a bearer token
    GET  /storage/v1/b/{bucket}/o/{object}?alt=media   the clip; without `alt` its description
"""

import asyncio
import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import orjson
from aiohttp import web

from vidgen.job import JsonValue
from vidgen.simulator.control import Generation, ProviderSimulator, unix_now
from vidgen.simulator.faults import Refusal
from vidgen.simulator.google import VIDEO_TYPE, by_token, deliver_clip, gcs_uris, refuse
from vidgen.simulator.wire import Incoming, clip_of, json_answer, misbehave, serve

_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# google-auth signs for Google's own endpoint, wherever the key file's `token_uri` leads.
_GOOGLE_TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address, no password
_SKEW_S = 300  # clocks differ; Google is as lenient


def service_account_file(
    folder: Path, token_url: str, *, project: str = "vidgen-simulator"
) -> Path:
    """
    Path of a new service account's key file that google-auth takes, with a fresh RSA key.

    Blocks for some 0.1 s.
    """
    # cryptography is google-auth's, and nobody else in the simulator needs it.
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "service-account.json"
    account: dict[str, JsonValue] = {
        "type": "service_account",
        "project_id": project,
        "private_key_id": token_hex(20),
        "private_key": key.decode(),
        "client_email": f"vidgen@{project}.iam.gserviceaccount.com",
        "client_id": "100000000000000000001",
        "token_uri": token_url,
    }
    path.write_bytes(orjson.dumps(account))
    path.chmod(0o600)
    return path


def bearer_is_good(simulator: ProviderSimulator, incoming: Incoming) -> bool:
    """The token was issued here and has not ended, or is one of the simulator's fixed keys."""
    token = incoming.key
    ends_at = simulator.tokens.get(token)
    now = asyncio.get_running_loop().time()
    return (ends_at is not None and now < ends_at) or token in (simulator.keys or ())


def unauthenticated() -> Refusal:
    """401 for a missing, unknown or ended access token."""
    return Refusal(
        status=401,
        message=(
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login "
            "cookie or other valid authentication credential."
        ),
        word="UNAUTHENTICATED",
        details=(
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "ACCESS_TOKEN_EXPIRED",
                "domain": "googleapis.com",
            },
        ),
    )


def token_routes(simulator: ProviderSimulator) -> list[web.RouteDef]:
    """The token endpoint."""

    async def issue(incoming: Incoming) -> web.StreamResponse:
        drawn = simulator.draw("token")
        await asyncio.sleep(drawn.number("late"))
        if drawn.outcome is not None:
            return await misbehave(incoming.request, drawn.outcome, refuse=_refuse_grant)
        wrong = wrong_assertion(incoming.fields or {}, simulator.token_url)
        if wrong is not None:
            return _refuse_grant(Refusal(status=400, message=wrong, code="invalid_grant"))
        lifetime_s = drawn.number("expires", simulator.token_lifetime_s)
        token = f"ya29.{token_hex(32)}"
        simulator.tokens[token] = asyncio.get_running_loop().time() + lifetime_s
        return json_answer(
            {"access_token": token, "expires_in": round(lifetime_s), "token_type": "Bearer"}
        )

    return [web.post("/token", serve(simulator, "token", issue))]


def bucket_routes(simulator: ProviderSimulator, foreign: ProviderSimulator) -> list[web.RouteDef]:
    """The object endpoint of the storage API."""
    bucket = _Bucket(simulator, foreign)
    # What Omni leaves in a bucket is for its own simulator.
    path = "/storage/v1/b/{bucket}/o/{object:(?!.*omni-[a-z0-9]+[.]mp4).+}"
    return [web.get(path, serve(simulator, "content", bucket.read))]


@dataclass(frozen=True, slots=True)
class _Bucket:
    simulator: ProviderSimulator
    foreign: ProviderSimulator

    async def read(self, incoming: Incoming) -> web.StreamResponse:
        if not bearer_is_good(self.simulator, incoming):
            return refuse(unauthenticated())
        bucket = incoming.request.match_info["bucket"]
        name = incoming.request.match_info["object"]
        generation = self.find(f"gs://{bucket}/{name}")
        if generation is None:
            # The media endpoint answers in plain text.
            return web.Response(text=f"No such object: {bucket}/{name}", status=404)
        if incoming.request.query.get("alt") == "media":
            return await deliver_clip(incoming, self.simulator, self.foreign, generation)
        clip = await clip_of(self.simulator, generation.wish)
        return json_answer(
            {
                "kind": "storage#object",
                "bucket": bucket,
                "name": name,
                "contentType": VIDEO_TYPE,
                "size": str(len(clip)),
            }
        )

    def find(self, uri: str) -> Generation | None:
        """The finished generation whose clip is at *uri*."""
        token = uri.split("/")[-2]
        generation = by_token(self.simulator, token)
        if generation is None or "storageUri" not in generation.wish.parameters:
            return None
        if not generation.is_due() or self.simulator.settle(generation) is not None:
            return None
        return generation if uri in gcs_uris(generation) else None


def wrong_assertion(fields: Mapping[str, str], token_url: str) -> str | None:
    """What is wrong with a token request, None if it may have one."""
    if fields.get("grant_type") != _GRANT:
        return f"grant_type must be {_GRANT}"
    parts = str(fields.get("assertion", "")).split(".")
    if len(parts) != 3 or not parts[2]:
        return "Invalid JWT: three parts are needed."
    header, claims = _decoded(parts[0]), _decoded(parts[1])
    if header is None or claims is None:
        return "Invalid JWT: header and claims must be base64url JSON objects."
    if header.get("alg") != "RS256":
        return "Invalid JWT: the algorithm must be RS256."
    issued_at, ends_at, now = claims.get("iat"), claims.get("exp"), unix_now()
    if not isinstance(issued_at, int | float) or not isinstance(ends_at, int | float):
        return "Invalid JWT: iat and exp are needed."
    if issued_at > now + _SKEW_S or ends_at < now - _SKEW_S or ends_at - issued_at > 3600:
        return "Invalid JWT: Token must be a short-lived token (60 minutes)."
    if not claims.get("iss") or claims.get("aud") not in {_GOOGLE_TOKEN_URL, token_url}:
        return "Invalid JWT: iss or aud is wrong."
    if "https://www.googleapis.com/auth/cloud-platform" not in str(claims.get("scope")).split():
        return "Invalid JWT: the scope cloud-platform is needed."
    return None


def _decoded(part: str) -> dict[str, JsonValue] | None:
    try:
        found = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, orjson.JSONDecodeError):
        return None
    return found if isinstance(found, dict) else None


def _refuse_grant(refusal: Refusal) -> web.StreamResponse:
    """*refusal* as OAuth writes errors."""
    temporary = refusal.status >= 500 or refusal.status == 429
    code = "temporarily_unavailable" if temporary else "invalid_grant"
    return json_answer(
        {"error": code, "error_description": refusal.message},
        status=refusal.status,
        headers=refusal.headers,
    )
