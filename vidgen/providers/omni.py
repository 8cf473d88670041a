"""
Google's Gemini Omni by the Interactions API, as `omni`: the successor of Veo, on two interfaces.

    gemini   POST {base}/interactions                       key in x-goog-api-key
    vertex   POST {base}/projects/{p}/locations/global/interactions         bearer token
    both     GET  …/interactions/{id}     POST …/interactions/{id}/cancel

An interaction is a resource with a status and steps; the video is in the content of a step
`model_output`, as an address or as base64. We ask for it with `background`, so that the receipt
comes at once and not minutes later; a server that does not take that answers with the finished
video, which is a receipt with the result. Read later, an interaction holds its video as base64 even
if an address was asked for (ai.google.dev/gemini-api/docs/omni), so an address that came with the
receipt is kept with the operation, and both ways to the bytes are here: by address (a file of the
Gemini API, `gs://` with VIDGEN_VEO_STORAGE_URI on Vertex AI), or out of the answer as it arrives.

Sources: ai.google.dev/gemini-api/docs/omni and /interactions-overview; docs.cloud.google.com
(video/overview, models/gemini/omni-1-2-flash); PyPI google-genai 3.6.1 for request, statuses, steps
and usage. A test runs 2.34 against our simulator; 3.6.1 was run by hand, and asks under `v1` unless
told `v1beta`, which is what the documentation has. A video is paid by tokens, so the cost is
reckoned from the tokens in `usage`, at the list price that LiteLLM 1.109.1 holds for the model; an
interaction without video tokens counts as not charged, one without usage as charged.

Not verified, since no paid key was used: that `background` holds for videos (the SDK has it for
every model, new-api polls Omni so); that version 1.1 keeps to the length it is told; what a blocked
video looks like (`errors` of the interaction, or `error` of a step, which are read for words and
support codes); what a file answers that is not ACTIVE yet (its state is looked up after a refusal);
what a last frame is called, so none is offered; the real size of what comes inside an answer.
"""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from vidgen.catalog import Endpoints, omni
from vidgen.errors import (
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    NotReadyError,
    OperationLostError,
    ProtocolError,
    ProviderError,
    ResultExpiredError,
    ResultInvalidError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers import google, inline
from vidgen.providers.answer import (
    Answer,
    cleaned,
    gone,
    is_storable_id,
    media_type,
    moved,
    number,
    private_texts,
    word,
)
from vidgen.providers.google import GoogleTokens
from vidgen.providers.google_http import Api, GoogleHttp
from vidgen.providers.http import ProviderHttp, joined, same_origin
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
from vidgen.providers.veo import gcs_url

INLINE = "inline:"
DATA = b"data"
POLL_TIMEOUT_S = 300.0  # an answer with the video inside takes a while

_ID = re.compile(r"[\w.~-]+", re.ASCII)
_FILE = re.compile(r"(.*/files/[\w-]+)(?::download)?(?:\?.*)?", re.ASCII)
_TOP_LEVEL = frozenset({"labels"})
# `requires_action` waits for us, and we have nothing to add.
_FAILED = frozenset({"failed", "incomplete", "budget_exceeded", "requires_action"})
_CANCELLED = frozenset({"cancelled", "canceled"})
_BLOCK_WORDS = ("safety", "blocked", "prohibited", "policy", "policies", "moderation")
# Micro-dollars a token of video; text and thoughts cost 9, all that goes in 1.5.
_VIDEO_TOKEN: Mapping[str, float] = {
    "gemini-omni-1.2-flash": 12.0,
    "gemini-omni-1.1-flash": 17.5,
    "gemini-omni-1.1-flash-preview": 17.5,
    "gemini-omni-flash-preview": 17.5,
}
_TEXT_TOKEN, _INPUT_TOKEN = 9.0, 1.5
MAX_COST_USD = 1000  # of one video: more is a mistake or a joke


def build(surroundings: Surroundings) -> "OmniProvider":
    """The provider as the settings want it."""
    return OmniProvider(surroundings.endpoints, surroundings.http, GoogleTokens())


class OmniProvider:
    """Videos by Gemini Omni, where *endpoints* say that Google is."""

    name = "omni"
    charges_failures = False  # each answer tells

    def __init__(self, endpoints: Endpoints, http: ProviderHttp, tokens: GoogleTokens) -> None:
        """Remember where; connections are *http*'s."""
        self._endpoints = endpoints
        self._homes: dict[Api, str] = {
            "gemini": omni.GEMINI.address(endpoints),
            "vertex": omni.VERTEX.address(endpoints),
        }
        self._gcs = endpoints.get("GCS_BASE_URL") or "https://storage.googleapis.com"
        self._google = GoogleHttp(http, tokens)

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        model = submission.request.model
        assert model is not None  # a submission has every default filled in
        api = self._api(model)
        place = self._place(api, credential)
        # A user's own project cannot write to the server's bucket.
        storage_uri = self._endpoints.get("VIDGEN_VEO_STORAGE_URI") or None
        bucket = None if credential.project is not None else storage_uri
        answer = await self._google.call(
            "submit",
            place.address,
            api,
            credential,
            # Images of 20 MiB become base64: too long for the loop.
            post=await asyncio.to_thread(_encoded, submission, api, bucket),
            not_after=submission.not_after,
            elide=True,
        )
        if not answer.ok:
            raise _refused(answer, submission, credential)
        try:
            data = answer.json()
            found = _id_of(data)
        except ProtocolError as error:
            raise SubmitUnknownError(
                "The submit was accepted, but the answer names no interaction; it may be running.",
                http_status=answer.status,
                request_id=answer.request_id,
            ) from error
        progress = parse_interaction(data, model, api)
        extra: dict[str, JsonValue] = {"api": api}
        if place.project is not None:
            extra["project"] = place.project
        if isinstance(progress, Succeeded) and not progress.assets[0].uri.startswith(INLINE):
            uri = progress.assets[0].uri
            # A file's address opens nothing by itself; one elsewhere might.
            if is_storable_id(uri) and self._is_ours(uri, place.home):
                extra["video_uri"] = uri
        return Submitted(
            operation=Operation(
                provider=self.name,
                id=found,
                endpoint=place.home,
                model=model,
                credential_id=credential.id,
                extra=extra,
            ),
            progress=progress,
        )

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once; see `Provider.poll`."""
        api = self._checked_api(operation)
        # The answer may carry the whole video: read it through the scanner, not into memory.
        try:
            async with (
                asyncio.timeout(POLL_TIMEOUT_S),
                self._fetched(operation, api, credential) as stream,
            ):
                body = await inline.shrink(stream.chunks)
        except TimeoutError as error:
            raise TransientError("Google's answer about the video took too long.") from error
        except ResultInvalidError as error:
            raise TransientError(f"Google's answer was cut: {error.message}") from error
        data = Answer(status=200, headers={}, body=body).json()
        if "status" not in data:
            raise ProtocolError("Google's answer about the interaction has no status.")
        progress = parse_interaction(data, operation.model, api)
        known = operation.extra.get("video_uri")
        if isinstance(progress, Succeeded) and isinstance(known, str):
            asset = Asset(variant="video", uri=known, content_type=progress.assets[0].content_type)
            return Succeeded(assets=(asset,), cost_micros=progress.cost_micros)
        return progress

    @asynccontextmanager
    async def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AsyncIterator[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        api = self._checked_api(operation)
        if asset.uri.startswith(INLINE):
            async with self._fetched(operation, api, credential) as stream:
                index = int(asset.uri.removeprefix(INLINE))
                yield ResultStream(
                    chunks=inline.decoded(stream.chunks, index, DATA),
                    content_type=asset.content_type,
                    size_bytes=None,
                )
            return
        if asset.uri.startswith("gs://"):
            home, url = self._gcs, gcs_url(self._gcs, asset.uri)
        else:
            home, url = operation.endpoint, joined(operation.endpoint, asset.uri)
        at_home = same_origin(url, home)

        async def refused(answer: Answer) -> ProviderError:
            return await self._unavailable(answer, url, api, credential, at_home=at_home)

        async with self._google.opened(url, home, api, credential, refused) as stream:
            yield stream

    async def cancel(self, operation: Operation, credential: Credential) -> bool | None:
        """Stop it; False if it is over, None if there is none."""
        api = self._checked_api(operation)
        url = f"{self._address(operation, api)}/cancel"
        answer = await self._google.call("cancel", url, api, credential, post=b"{}", elide=True)
        if answer.ok:
            body = answer.lenient_json()
            status = body.get("status") if isinstance(body, dict) else None
            return status not in {"completed", *_FAILED}
        if answer.status in {404, 410}:
            return None
        if answer.status in {400, 405, 409, 501}:
            return False
        raise google.refusal(answer, "cancel", secret=credential.secret)

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether Google takes *credential*; see `Provider.accepts`."""
        api = self._api(model)
        if api == "vertex":
            # A token is given, or not. What it opens shows with the first video.
            await self._google.headers(api, credential)
            return True
        url = f"{self._homes[api]}/models?pageSize=1"
        answer = await self._google.call("list", url, api, credential)
        if answer.ok:
            return True
        if answer.status in {404, 405, 501}:
            return False
        raise google.refusal(answer, "list", secret=credential.secret)

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""

    @asynccontextmanager
    async def _fetched(
        self, operation: Operation, api: Api, credential: Credential
    ) -> AsyncIterator[ResultStream]:
        """The interaction as it arrives."""

        async def refused(answer: Answer) -> ProviderError:
            return google.refusal(answer, "poll", secret=credential.secret)

        url = self._address(operation, api)
        async with self._google.opened(
            url, operation.endpoint, api, credential, refused, stay=True
        ) as stream:
            yield stream

    async def _unavailable(
        self, answer: Answer, url: str, api: Api, credential: Credential, *, at_home: bool
    ) -> ProviderError:
        """Tell "not yet" from "gone": a file of the Gemini API has a state that says it."""
        refused = google.refusal(answer, "download", secret=credential.secret)
        file = _FILE.fullmatch(url)
        if api == "gemini" and at_home and file and answer.status in {400, 403, 404, 409, 425}:
            look = await self._google.call("poll", file[1], api, credential)
            about = look.lenient_json() if look.ok else None
            state = about.get("state") if isinstance(about, dict) else None
            if state == "PROCESSING":
                return NotReadyError(
                    "Google calls the video finished but still prepares its file.",
                    retry_after_s=refused.retry_after_s,
                    http_status=answer.status,
                )
            if state == "FAILED" or answer.status == 403:
                return ResultExpiredError(
                    f"Google has no file of the video ({answer.status}).",
                    http_status=answer.status,
                )
        return gone(answer, "Google", at_home=at_home) or refused

    def _api(self, model: str) -> Api:
        found = omni.VENDOR.interface_of(model, self._endpoints).name
        return "gemini" if found == "gemini" else "vertex"

    def _place(self, api: Api, credential: Credential) -> "_Place":
        if api == "gemini":
            return _Place(home=self._homes[api], project=None)
        project = credential.project or self._endpoints.get("GOOGLE_CLOUD_PROJECT_ID")
        if not project:
            raise InputRejectedError("Omni is on Vertex AI: set GOOGLE_CLOUD_PROJECT_ID.")
        return _Place(home=self._homes[api], project=project)

    def _address(self, operation: Operation, api: Api) -> str:
        project = operation.extra.get("project") if api == "vertex" else None
        place = _Place(
            home=operation.endpoint, project=project if isinstance(project, str) else None
        )
        return f"{place.address}/{quote(operation.id, safe='')}"

    def _is_ours(self, uri: str, home: str) -> bool:
        with suppress(ProtocolError):
            return uri.startswith("gs://") or same_origin(joined(home, uri), home)
        return False

    def _checked_api(self, operation: Operation) -> Api:
        """Which interface has *operation*; its endpoint must be one that may see the credential."""
        api: Api = "gemini" if operation.extra.get("api") == "gemini" else "vertex"
        interface = omni.GEMINI if api == "gemini" else omni.VERTEX
        if _ID.fullmatch(operation.id) is None:
            raise OperationLostError("The stored operation has no id that Google could know.")
        if not same_origin(operation.endpoint, self._homes[api]):
            raise moved(operation, interface.base_url_variable)
        return api


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where interactions are: a base URL, and on Vertex AI the project that pays."""

    home: str
    project: str | None

    @property
    def address(self) -> str:
        if self.project is None:
            return f"{self.home}/interactions"
        project = quote(self.project, safe=":")
        return f"{self.home}/projects/{project}/locations/{omni.LOCATION}/interactions"


def build_body(submission: Submission, api: Api, storage_uri: str | None) -> dict[str, JsonValue]:
    """The body of `POST /interactions`: in the background, kept, and as an address if possible."""
    request = submission.request
    wanted: dict[str, JsonValue] = {
        "type": "video",
        "aspect_ratio": request.aspect_ratio,
        "resolution": request.resolution,
        "duration": None if request.seconds is None else f"{request.seconds}s",
    }
    if api == "gemini":
        wanted["delivery"] = "uri"
    elif storage_uri is not None:
        wanted |= {"delivery": "uri", "gcs_uri": storage_uri}
    roles = {image.role for image in submission.images}
    if "reference" in roles:
        task = "reference_to_video"
    else:
        task = "image_to_video" if roles else "text_to_video"
    settings: dict[str, JsonValue] = {"video_config": {"task": task}}
    if request.seed is not None:
        settings["seed"] = request.seed
    text: JsonValue = {"type": "text", "text": request.prompt}
    images: list[JsonValue] = [_image(image) for image in submission.images]
    body: dict[str, JsonValue] = {
        "model": request.model,
        "input": [*images, text],
        "response_format": {name: value for name, value in wanted.items() if value is not None},
        "generation_config": settings,
        "background": True,
        "store": True,
    }
    body.update((name, value) for name, value in request.extra.items() if name in _TOP_LEVEL)
    settings.update((name, each) for name, each in request.extra.items() if name not in _TOP_LEVEL)
    return body


def parse_interaction(data: Mapping[str, Any], model: str, api: Api) -> Progress:
    """Turn an interaction, long texts left out of it, into progress."""
    status = str(data.get("status") or "").lower()
    usage = data.get("usage")
    charged, cost = _is_charged(usage), _cost(usage, model)
    if status in _CANCELLED:
        error: ProviderError = GenerationFailedError("The video was cancelled at Google.")
        return Failed(error=error, charged=charged, cost_micros=cost)
    if status in _FAILED:
        return Failed(error=_verdict(data, status), charged=charged, cost_micros=cost)
    if status != "completed":
        return Running()
    asset = _asset(data)
    if asset is None:
        error = _verdict(data, "without a video")
        return Failed(error=error, charged=charged, cost_micros=cost)
    return Succeeded(assets=(asset,), cost_micros=cost)


def _verdict(data: Mapping[str, Any], how: str) -> ProviderError:
    """Why there is no video, in our words: Google's own may repeat the prompt."""
    code: str | None = None
    said = ""
    for error in _errors(data):
        code = code or _code(error.get("code"))
        said += f" {error.get('message') or ''}"
    if google.family(said) is not None:
        return google.blocked(said)
    if any(term in f"{code or ''} {said}".lower() for term in _BLOCK_WORDS):
        return ContentBlockedError(
            "Google's safety filters blocked the video; change the prompt or the images.",
            provider_code=code,
        )
    named = f", code {code}" if code else ""
    return GenerationFailedError(
        f"The generation failed at Google ({how}{named}).", provider_code=code
    )


def _errors(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    errors, single = data.get("errors"), data.get("error")
    for each in [*(errors if isinstance(errors, list) else ()), single]:
        if isinstance(each, dict):
            yield each
    for step in _steps(data):
        found = step.get("error")
        if isinstance(found, dict):
            yield found


def _code(value: object) -> str | None:
    """The last word of an error's URI, or its number."""
    return word(value.rstrip("/").rpartition("/")[2] if isinstance(value, str) else value)


def _steps(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    steps = data.get("steps")
    for step in steps if isinstance(steps, list) else ():
        if isinstance(step, dict):
            yield step


def _asset(data: Mapping[str, Any]) -> Asset | None:
    """The first video that has an address or bytes; one is asked for, so one is taken."""
    found: list[object] = [data.get("output_video")]
    for step in _steps(data):
        content = step.get("content")
        if step.get("type") == "model_output" and isinstance(content, list):
            found.extend(content)
    for video in found:
        if not isinstance(video, dict) or video.get("type", "video") != "video":
            continue
        content_type = media_type(video.get("mime_type"), "video/mp4")
        uri = cleaned(video.get("uri"))
        if uri and not uri.startswith(INLINE):  # that word is ours
            return Asset(variant="video", uri=uri, content_type=content_type)
        if isinstance(video.get("data"), str) and video["data"]:
            index = _index_of(data, video)
            return Asset(variant="video", uri=f"{INLINE}{index}", content_type=content_type)
    return None


def _index_of(data: object, wanted: Mapping[str, Any]) -> int:
    """How many texts named `data` come before that of *wanted*, in the order of the answer."""
    count = 0
    for holder in _holders(data):
        if holder is wanted:
            break
        count += 1
    return count


def _holders(value: object) -> Iterator[Mapping[str, Any]]:
    """Every object that has a text named `data`, as the scanner meets those texts."""
    if isinstance(value, dict):
        for name, each in value.items():
            if name == "data" and isinstance(each, str):
                yield value
            else:
                yield from _holders(each)
    elif isinstance(value, list):
        for each in value:
            yield from _holders(each)


def _tokens(usage: object) -> tuple[float, float, float] | None:
    """Tokens that went in, of video that came out, and of all else that came out."""
    if not isinstance(usage, dict):
        return None
    by_modality = usage.get("output_tokens_by_modality")
    video = sum(
        number(each.get("tokens")) or 0
        for each in (by_modality if isinstance(by_modality, list) else ())
        if isinstance(each, dict) and str(each.get("modality")).lower() == "video"
    )
    total = number(usage.get("total_output_tokens")) or 0
    thought = number(usage.get("total_thought_tokens")) or 0
    return number(usage.get("total_input_tokens")) or 0, video, max(total - video, 0) + thought


def _is_charged(usage: object) -> bool:
    tokens = _tokens(usage)
    return tokens is None or tokens[1] > 0


def _cost(usage: object, model: str) -> int | None:
    """What the tokens cost in micro-dollars; None unless all is known and sane."""
    tokens, price = _tokens(usage), _VIDEO_TOKEN.get(model)
    if tokens is None or price is None or tokens[1] <= 0:
        return None
    micros = tokens[0] * _INPUT_TOKEN + tokens[1] * price + tokens[2] * _TEXT_TOKEN
    return round(micros) if 0 <= micros <= MAX_COST_USD * 1_000_000 else None


def _refused(answer: Answer, submission: Submission, credential: Credential) -> ProviderError:
    private = private_texts(submission.request)
    error = google.refusal(answer, "submit", secret=credential.secret, private=private)
    if type(error) is InputRejectedError and answer.status in {400, 403, 422}:
        body = answer.lenient_json()
        inner = body.get("error") if isinstance(body, dict) else None
        said = str(inner.get("message") or "").lower() if isinstance(inner, dict) else ""
        if any(term in said for term in _BLOCK_WORDS):
            return ContentBlockedError(
                error.message, provider_code=error.provider_code, http_status=answer.status
            )
    return error


def _id_of(data: Mapping[str, Any]) -> str:
    found = data.get("id")
    text = found.rpartition("/")[2] if isinstance(found, str) else ""
    if not is_storable_id(text) or _ID.fullmatch(text) is None or text in {".", ".."}:
        raise ProtocolError("Google's answer has no usable id of an interaction.")
    return text


def _encoded(submission: Submission, api: Api, storage_uri: str | None) -> bytes:
    return orjson.dumps(build_body(submission, api, storage_uri))


def _image(image: ImageBytes) -> JsonValue:
    return {
        "type": "image",
        "mime_type": image.content_type,
        "data": b64encode(image.data).decode("ascii"),
    }
