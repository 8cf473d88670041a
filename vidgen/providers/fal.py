"""
fal.ai's queue, as `fal`: any app of it that makes a video, by the app's id.

    POST {app id}                   -> {"request_id", "status_url", "response_url", "cancel_url"}
    GET  status_url                 -> {"status": IN_QUEUE | IN_PROGRESS | COMPLETED, "error",
                                        "error_type"}, 202 until it is completed
    GET  response_url               -> what the app made, or its error with the app's HTTP status
    PUT  cancel_url                 -> 202 CANCELLATION_REQUESTED, 400 ALREADY_COMPLETED

The id of an app has an owner, a name and, often, a path (`fal-ai/veo3.1/fast`); the addresses of a
request have the owner and the name only, so the operation keeps those that fal gives. COMPLETED
says that it is over and not how: the result is asked for by the same look.

Apps name their inputs as they like. What we know of some stands in `_APPS`; for all others length,
images and so on go by the most common names, and what an app calls otherwise goes by `extra`.

Sources: fal.ai/docs (inference API, queue, request errors, model errors, FAQ on billing), PyPI
fal-client 1.0.3, which a test runs against our simulator, and each app's llms.txt for inputs and
prices. fal bills no request that ends with 5xx, and may bill one that ends with 4xx; it tells no
cost. An account without money is answered 403 with the words "User is locked" (fal-ai/fal#1112).
fal itself repeats a request up to ten times whose runner broke, which is not billed.

Not verified, since no paid key was used: that the status of a request nobody made is answered 401
for a wrong key and 404 for a right one (`accepts` asks for that, as it costs nothing); how long a
result is kept; which error types there are besides those in the documentation.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import quote

from vidgen.catalog import fal
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    ModelRetiredError,
    ProtocolError,
    ProviderError,
    QuotaExhaustedError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers.answer import (
    Answer,
    Deed,
    cleaned,
    media_type,
    word,
)
from vidgen.providers.api import Api
from vidgen.providers.http import ProviderHttp
from vidgen.providers.plain import Said, Vendor, blocked, broken, data_uri, filled, video_at
from vidgen.providers.protocol import (
    Asset,
    Credential,
    Failed,
    Progress,
    ResultStream,
    Running,
    Submission,
    Submitted,
    Succeeded,
)
from vidgen.providers.registry import Surroundings

Address = Literal["status", "response", "cancel"]

NOBODYS_REQUEST = "00000000-0000-0000-0000-000000000000"
_APP_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)+", re.ASCII)
_NAMESPACES = frozenset({"workflows", "comfy"})  # of ids with one part more
_SUFFIXES: Mapping[Address, str] = {"status": "/status", "response": "", "cancel": "/cancel"}
_MONEY_WORDS = ("user is locked", "exhausted balance", "top up", "top_up", "insufficient")
_BLOCKED = frozenset({"content_policy_violation", "content_moderation", "safety_checker"})
# Ends of a request that say nothing against the request itself.
_BROKEN = frozenset(
    {
        "request_timeout",
        "startup_timeout",
        "internal_error",
        "internal_server_error",
        "generation_timeout",
        "downstream_service_error",
        "downstream_service_unavailable",
        "no_media_generated",
    }
)
_CANCELLED = frozenset({"client_cancelled", "client_disconnected"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _App:
    """
    What the inputs of an app are called.

    Attributes:
        seconds: How the length is written; `{}` is the number.
        references: Of a list of addresses.
    """

    seconds: str = "{}"
    first_frame: str = "image_url"
    last_frame: str = "end_image_url"
    references: str = "reference_image_urls"


# By the longest beginning of the id that fits.
_APPS: Mapping[str, _App] = {
    "": _App(),
    "fal-ai/veo3": _App(seconds="{}s", references="image_urls"),
    "fal-ai/veo3.1/first-last": _App(
        seconds="{}s", first_frame="first_frame_url", last_frame="last_frame_url"
    ),
    "fal-ai/veo3.1/fast/first-last": _App(
        seconds="{}s", first_frame="first_frame_url", last_frame="last_frame_url"
    ),
    "fal-ai/kling-video/": _App(last_frame="tail_image_url"),
    "bytedance/seedance-": _App(references="image_urls"),
}


def build(surroundings: Surroundings) -> "FalProvider":
    """The provider as the settings want it."""
    return FalProvider(surroundings.address(fal.INTERFACE), surroundings.http)


class FalProvider:
    """Videos by the queue of fal.ai at *base_url*, e.g. `https://queue.fal.run`."""

    name = "fal"
    charges_failures = False  # each answer tells

    def __init__(self, base_url: str, http: ProviderHttp) -> None:
        """Remember where; connections are *http*'s."""
        self._api = Api(
            provider=self.name,
            vendor=Vendor(
                label="fal",
                base_url=base_url.rstrip("/"),
                variable="FAL_BASE_URL",
                unknown_model="There is no such app (any more)",
            ),
            http=http,
            said=said,
            id_field="request_id",
            headers=_headers,
            unavailable=Vendor.gone,
        )

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        model = submission.request.model or ""
        if _APP_ID.fullmatch(model) is None or ".." in model:
            raise InputRejectedError("An app of fal.ai is named owner/name or owner/name/path.")
        answer = await self._api.submit(model, build_input, submission, credential)
        operation = self._api.receipt(answer, submission, credential)
        return Submitted(
            operation=replace(operation, extra=_addresses(self._api.vendor, answer.json()))
        )

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once, and take the result along when it is there; see `Provider.poll`."""
        status = await self._ask("poll", "GET", operation, "status", credential)
        self._api.check(status, "poll", credential)
        standing = status.json()
        if "status" not in standing:
            raise ProtocolError("fal's answer about the request has no status.")
        state = str(standing["status"]).upper()
        if state == "IN_QUEUE":
            return Running(percent=0)
        if state != "COMPLETED":
            return Running()
        result = await self._ask("poll", "GET", operation, "response", credential)
        if result.ok:
            return parse_result(result.json(), standing)
        verdict = _verdict(result, standing, credential.secret)
        if verdict is None:
            raise self._api.refusal(result, "poll", credential)
        return verdict

    def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        return self._api.open_result(operation, asset, credential)

    async def cancel(self, operation: Operation, credential: Credential) -> bool | None:
        """Take it out of the queue, or tell its runner; False if it is over, None if unknown."""
        answer = await self._ask("cancel", "PUT", operation, "cancel", credential)
        return self._api.is_stopped(answer, credential)

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether fal takes *credential*, by asking for a request nobody made."""
        url = self._api.url(f"{_request_path(model, NOBODYS_REQUEST)}/status")
        answer = await self._api.exchange("list", "GET", url, credential)
        if answer.status in {404, 422}:
            return True
        if answer.status in {405, 501}:
            return False
        self._api.check(answer, "list", credential)
        return True

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""

    async def _ask(
        self,
        deed: Deed,
        method: str,
        operation: Operation,
        which: Address,
        credential: Credential,
    ) -> Answer:
        path = f"{_request_path(operation.model, operation.id)}{_SUFFIXES[which]}"
        url = self._api.at(operation, path)
        told = self._api.vendor.at_home(operation.extra.get(f"{which}_url"))
        return await self._api.exchange(deed, method, told or url, credential)


def _addresses(vendor: Vendor, receipt: Mapping[str, Any]) -> dict[str, JsonValue]:
    """Where the request lives: only at home and without a query, which could be a secret."""
    names = [f"{which}_url" for which in _SUFFIXES]
    return filled({name: vendor.at_home(receipt.get(name)) for name in names})


def build_input(submission: Submission) -> dict[str, JsonValue]:
    """The inputs of the app by the names it has for them, images as data URLs."""
    request = submission.request
    app = _app(request.model or "")
    wanted: dict[str, JsonValue] = {
        "prompt": request.prompt,
        "duration": None if request.seconds is None else app.seconds.format(request.seconds),
        "aspect_ratio": request.aspect_ratio,
        "resolution": request.resolution,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "generate_audio": request.audio,
    }
    references: list[JsonValue] = []
    for image in submission.images:
        match image.role:
            case "first_frame":
                wanted[app.first_frame] = data_uri(image)
            case "last_frame":
                wanted[app.last_frame] = data_uri(image)
            case "reference":
                references.append(data_uri(image))
    if references:
        wanted[app.references] = references
    return filled(wanted) | dict(request.extra)


def parse_result(result: Mapping[str, Any], standing: Mapping[str, Any]) -> Progress:
    """What the app made; *standing* is what the queue says about the request."""
    for file in _files(result):
        address = cleaned(file.get("url"))
        if address.startswith(("http://", "https://")):
            kind = media_type(file.get("content_type"), "video/mp4")
            return Succeeded(assets=(replace(video_at(address), content_type=kind),))
    if standing.get("error") or standing.get("error_type"):
        return Failed(error=_ended(_type_of(standing)), charged=True)
    sentence = "The app finished without a video; perhaps it is none that makes videos."
    return Failed(error=GenerationFailedError(sentence), charged=True)


def said(answer: Answer, deed: Deed) -> Said:
    """What fal, or the app, says with a refusal."""
    code, words = _error_of(answer)
    kind = _kind(answer.status, words.lower(), code or "", deed)
    return Said(code=code, words=words, kind=kind)


def _kind(status: int, lower: str, code: str, deed: Deed) -> type[ProviderError] | None:
    """The class that only the words give away; None if the status says it all."""
    if status in {402, 403, 429} and any(term in lower for term in _MONEY_WORDS):
        return QuotaExhaustedError
    if status == 400 and "api key" in lower:
        return AuthError
    if deed != "submit" or status not in {400, 404, 410, 422}:
        return None
    if "no longer available" in lower:
        return ModelRetiredError
    return ContentBlockedError if code in _BLOCKED else None


def _verdict(result: Answer, standing: Mapping[str, Any], secret: str) -> Failed | None:
    """
    How the app ended, in our words: its own may repeat the prompt, which a look lacks.

    None if fal refuses to show the result; that says nothing about the request.
    """
    code, _ = _error_of(result)
    kind = _type_of(standing) or word(code, secret=secret)
    known = kind is not None and result.status not in {401, 403, 404, 408, 410, 425, 429}
    if not known and not (standing.get("error") and result.status >= 500):
        return None
    if 400 <= result.status < 500 and kind not in _BROKEN | _BLOCKED | _CANCELLED:
        named = f" ({kind})" if kind else ""
        error: ProviderError = InputRejectedError(
            f"The app rejects the request{named}; check the prompt, the images and the parameters.",
            provider_code=kind,
        )
    else:
        error = _ended(kind)
    return Failed(error=error, charged=result.status < 500)


def _ended(kind: str | None) -> ProviderError:
    if kind in _BLOCKED:
        return blocked("The app", kind)
    if kind in _CANCELLED:
        return GenerationFailedError(
            f"The request was cancelled at fal ({kind}).", provider_code=kind
        )
    return broken("fal", kind)


def _type_of(standing: Mapping[str, Any]) -> str | None:
    return word(standing.get("error_type"))


def _error_of(answer: Answer) -> tuple[str | None, str]:
    """Type and message: of a request error, or the first of an app's list of them."""
    body = answer.lenient_json()
    found: object = None
    message: object = ""
    if isinstance(body, dict):
        found, message = body.get("error_type"), body.get("detail") or body.get("error") or ""
    if isinstance(message, list):
        items = [item for item in message if isinstance(item, dict)]
        found = found or next((item.get("type") for item in items), None)
        message = "; ".join(str(item.get("msg") or "") for item in items)
    found = found or answer.headers.get("x-fal-error-type")
    return word(found), message if isinstance(message, str) else ""


def _files(result: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Whatever may be the video, the likeliest first; a plain address counts as a file."""
    video, videos = result.get("video"), result.get("videos")
    nested = [each for each in (result.get("output"), result.get("data")) if isinstance(each, dict)]
    likely = [video, *(videos if isinstance(videos, list) else ()), result.get("video_url")]
    for each in likely:
        if isinstance(each, dict):
            yield each
        elif isinstance(each, str):
            yield {"url": each}
    for inner in nested:
        yield from _files(inner)
    for each in result.values():
        if isinstance(each, dict) and str(each.get("content_type")).startswith("video/"):
            yield each


def _request_path(model: str, request_id: str) -> str:
    parts = model.split("/")
    owner_and_name = "/".join(parts[: 3 if parts[0] in _NAMESPACES else 2])
    return f"{quote(owner_and_name, safe='/')}/requests/{quote(request_id, safe='')}"


def _app(model: str) -> _App:
    return _APPS[max((known for known in _APPS if model.startswith(known)), key=len)]


def _headers(credential: Credential) -> dict[str, str]:
    if not credential.secret:  # a gateway of one's own may want no key
        return {}
    return {"Authorization": f"Key {credential.secret}"}
