"""
xAI's video models over REST, as `xai`: grok-imagine-video and its successors.

    POST /videos/generations   -> {"request_id"}
    GET  /videos/{request_id}  -> {"status": pending | done | failed | expired, "progress", "video",
                                   "usage", "error"}, always 200 or 202
    GET  /api-key              -> what the key is, for nothing

Sources: docs.x.ai (video generation, API reference, debugging errors); PyPI xai-sdk 1.21.0 for the
names of fields, the four states, `progress`, `respect_moderation`, `error {code, message}` and the
unit of cost (a tick is 1e-10 dollars); vercel/ai `packages/xai` for the REST shapes. xai-sdk speaks
gRPC, so it cannot be run against a server of the REST interface.

The video lies on a host of its own (vidgen.x.ai), so it is fetched without the key. Its address is
called temporary, without a date. There is no cancel, no list and no seed.

Not verified, since no paid key was used: which codes a failed video may have besides
`internal_error`; whether one that moderation held back is always billed (a reseller, apiyi, says so
of xAI's own bills, and so it counts as charged); whether other failures are billed (they count as
charged unless the answer says a cost of nothing or a clip of no seconds, as the one in the
documentation does). That exhausted credits answer 403 or 429 with words about credits or a spending
limit, and a wrong key 400, is known from public reports only.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from vidgen.catalog import xai
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    GenerationFailedError,
    ModelRetiredError,
    ProtocolError,
    ProviderError,
    QuotaExhaustedError,
    ResultExpiredError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers.answer import (
    Answer,
    Deed,
    cleaned,
    number,
    percent,
    poll_hint,
    word,
)
from vidgen.providers.api import NOT_OFFERED, Api, quoted_id
from vidgen.providers.http import ProviderHttp
from vidgen.providers.plain import (
    Said,
    Vendor,
    blocked,
    broken,
    data_uri,
    filled,
    rejected,
    video_at,
)
from vidgen.providers.protocol import (
    Asset,
    Credential,
    Failed,
    ImageBytes,
    Progress,
    ResultStream,
    Running,
    Submission,
    Submitted,
    Succeeded,
)
from vidgen.providers.registry import Surroundings

TICKS_PER_MICRO = 10_000
MAX_COST_USD = 1000  # of one video: more is a mistake or a joke

_MONEY_WORDS = ("credits", "spending limit", "spend limit", "billing")
_MODERATION_WORDS = ("moderation", "content policy", "content_policy", "usage guidelines", "safety")
_INPUT_CODES = frozenset({"invalid_argument", "invalid-argument", "out_of_range"})
# xAI writes gRPC's descriptions where others write codes.
_CODES: Mapping[str, str] = {
    "client specified an invalid argument": "invalid_argument",
    "the request does not have valid authentication credentials": "unauthenticated",
    "the caller does not have permission to execute the specified operation": "permission_denied",
    "some requested entity was not found": "not_found",
    "some resource has been exhausted": "resource_exhausted",
    "the system is not in a state required for the operation's execution": "failed_precondition",
    "operation is not implemented or not supported": "unimplemented",
    "deadline expired before operation could complete": "deadline_exceeded",
    "the operation was aborted": "aborted",
    "the service is currently unavailable": "unavailable",
    "internal error": "internal",
}


def build(surroundings: Surroundings) -> "XaiProvider":
    """The provider as the settings want it."""
    return XaiProvider(surroundings.address(xai.INTERFACE), surroundings.http)


class XaiProvider:
    """Videos by xAI at *base_url*, e.g. `https://api.x.ai/v1`."""

    name = "xai"
    charges_failures = False  # each answer tells

    def __init__(self, base_url: str, http: ProviderHttp) -> None:
        """Remember where; connections are *http*'s."""
        self._api = Api(
            provider=self.name,
            vendor=Vendor(
                label="xAI",
                base_url=base_url.rstrip("/"),
                variable="XAI_BASE_URL",
                unknown_model="The model is switched off or not open to this key",
            ),
            http=http,
            said=_said,
            id_field="request_id",
            unavailable=Vendor.gone,
        )

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        answer = await self._api.submit("videos/generations", build_body, submission, credential)
        return Submitted(operation=self._api.receipt(answer, submission, credential))

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once; see `Provider.poll`."""
        url = self._api.at(operation, f"videos/{quoted_id(operation)}")
        answer = await self._api.ask("poll", "GET", url, credential)
        return parse_video(answer.json(), answer.headers)

    def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        return self._api.open_result(operation, asset, credential)

    async def cancel(self, operation: Operation, credential: Credential) -> bool:
        """xAI has no documented cancel: always False."""
        return False

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether xAI takes *credential*; see `Provider.accepts`."""
        answer = await self._api.exchange("list", "GET", self._api.url("api-key"), credential)
        if answer.status in NOT_OFFERED:
            return False
        self._api.check(answer, "list", credential)
        about = answer.json()
        for flag in ("api_key_blocked", "api_key_disabled", "team_blocked"):
            if about.get(flag) is True:
                raise AuthError(f"xAI knows the key, but does not let it work ({flag}).")
        return True

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""


def build_body(submission: Submission) -> dict[str, JsonValue]:
    """The body of `POST /videos/generations`, images as data URLs."""
    request = submission.request
    wanted: dict[str, JsonValue] = {
        "model": request.model,
        "prompt": request.prompt,
        "duration": request.seconds,
        "aspect_ratio": request.aspect_ratio,
        "resolution": request.resolution,
        # Sound is what one gets anyway, and older models do not know the word.
        "generate_audio": False if request.audio is False else None,
    }
    references: list[JsonValue] = []
    for image in submission.images:
        match image.role:
            case "first_frame":
                wanted["image"] = _image(image)
            case "last_frame":
                wanted["last_frame"] = _image(image)
            case "reference":
                references.append(_image(image))
    if references:
        wanted["reference_images"] = references
    return filled(wanted) | dict(request.extra)


def parse_video(data: Mapping[str, Any], headers: Mapping[str, str]) -> Progress:
    """Turn what xAI says about a request into progress."""
    status = str(data.get("status") or "").lower()
    video = data.get("video")
    video = video if isinstance(video, dict) else {}
    cost = _cost(data.get("usage"))
    uri = cleaned(video.get("url"))
    if status == "done" or (not status and uri):
        if video.get("respect_moderation") is False:
            return _kept_back(blocked("xAI", None), cost)
        if not uri:
            sentence = "xAI calls the video done, but names no address of it."
            error: ProviderError = GenerationFailedError(sentence)
            return Failed(error=error, charged=cost != 0, cost_micros=cost)
        return Succeeded(assets=(video_at(uri),), cost_micros=cost)
    if status == "expired":
        # Whether the generation or its result is what expired, and what it cost, nobody says.
        gone_error = ResultExpiredError("xAI no longer keeps the request (expired).")
        return Failed(error=gone_error, charged=cost != 0, cost_micros=cost)
    if status == "failed":
        error = _verdict(data.get("error"))
        if isinstance(error, ContentBlockedError):
            return _kept_back(error, cost)
        return Failed(error=error, charged=not _is_free(video, cost), cost_micros=cost)
    if not status:
        raise ProtocolError("xAI's answer about the video has no status.")
    return Running(percent=percent(data.get("progress")), poll_after_s=poll_hint(headers))


def _said(answer: Answer, deed: Deed) -> Said:
    code, words = _error_of(answer.lenient_json())
    kind = _kind(answer.status, words.lower(), code or "", deed)
    return Said(code=code, words=words, kind=kind)


def _kind(status: int, lower: str, code: str, deed: Deed) -> type[ProviderError] | None:
    """The class that only the words give away; None if the status says it all."""
    if status in {400, 401} and "api key" in lower:
        return AuthError
    if status in {403, 429} and any(term in lower for term in _MONEY_WORDS):
        return QuotaExhaustedError
    if deed != "submit" or status not in {400, 403, 404, 410, 422}:
        return None
    if "no longer available" in lower or ("model" in lower and "not exist" in lower):
        return ModelRetiredError
    said = f"{code} {lower}"
    return ContentBlockedError if any(term in said for term in _MODERATION_WORDS) else None


def _error_of(body: object) -> tuple[str | None, str]:
    """Code and message of `{code, error}`, or of `{error: {code, message}}` as gateways write."""
    if not isinstance(body, dict):
        return None, ""
    inner = body.get("error")
    error: Mapping[str, Any] = inner if isinstance(inner, dict) else body
    message = error.get("message") if isinstance(inner, dict) else inner
    raw = error.get("code")
    described = _CODES.get(raw.strip().rstrip(".").lower()) if isinstance(raw, str) else None
    code = described or word(raw)
    return code, message if isinstance(message, str) else ""


def _verdict(raw: object) -> ProviderError:
    """How it ended, in our words: xAI's own may repeat the prompt, which a look lacks."""
    code, message = _error_of({"error": raw} if isinstance(raw, dict) else {})
    said = f"{code or ''} {message}".lower()
    if any(term in said for term in _MODERATION_WORDS):
        return blocked("xAI", code)
    return rejected("xAI", code) if code in _INPUT_CODES else broken("xAI", code)


def _kept_back(error: ProviderError, cost: int | None) -> Failed:
    """The verdict of moderation: it is billed, so a cost of nothing is not one."""
    return Failed(error=error, charged=True, cost_micros=cost or None)


def _is_free(video: Mapping[str, Any], cost: int | None) -> bool:
    """Whether the answer itself says so: it cost nothing, or the clip has no seconds to pay."""
    return cost == 0 if cost is not None else number(video.get("duration")) == 0


def _cost(usage: object) -> int | None:
    """The cost in micro-dollars; None unless it is a sane number of ticks."""
    ticks = number(usage.get("cost_in_usd_ticks")) if isinstance(usage, dict) else None
    if ticks is None or not 0 <= ticks <= MAX_COST_USD * 1_000_000 * TICKS_PER_MICRO:
        return None
    return round(ticks / TICKS_PER_MICRO)


def _image(image: ImageBytes) -> dict[str, JsonValue]:
    return {"url": data_uri(image)}
