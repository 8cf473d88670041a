"""
Google's Veo 3.1, as `veo`: one request builder and one reader of operations for two interfaces.

    gemini   key in x-goog-api-key   GET  {operation}                     files with the same key
    vertex   bearer token            POST {model}:fetchPredictOperation   gs:// with the same token,
                                                                          or base64 in the answer

The model decides which interface serves a request, the operation remembers it. Google ignores
parameters that it does not know and charges for the default, so each one is sent only where the
interface is documented to take it. Whether Vertex charges for a filtered video is not documented:
such a failure counts as charged.

What Google says in words is quoted to the user from a refused submit only, without the prompts and
the key. A look has no prompt at hand to take out of it, so there the code and the families of the
support codes speak, in our sentence.
"""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from vidgen.catalog import Endpoints, veo
from vidgen.errors import (
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
    is_storable_id,
    media_type,
    moved,
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

INLINE = "inline:"
CANCELLED = 1
POLL_TIMEOUT_S = 300.0  # an answer with the video inside takes a while
_GEMINI_NAME = re.compile(r"(?:models/[\w.-]+/)?operations/[\w.~-]+", re.ASCII)
_VERTEX_NAME = re.compile(
    r"(projects/[\w.:-]+/locations/([a-z0-9-]+)/[\w./-]+)/operations/[\w.~-]+", re.ASCII
)
_TOP_LEVEL = frozenset({"labels"})
# google.rpc.Code, as far as an operation ends with it.
_CODE_WORDS: Mapping[int, str] = {
    CANCELLED: "CANCELLED",
    2: "UNKNOWN",
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    10: "ABORTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class VeoEndpoints:
    """
    Where Google is, as configured.

    Attributes:
        vertex_base_url: None means the vendor's own host of the location.
        vertex_storage_uri: `gs://bucket/prefix/` the videos are written to; None means that they
            come inside the answer.
    """

    gemini_base_url: str
    vertex_project: str | None
    vertex_location: str
    vertex_base_url: str | None
    vertex_storage_uri: str | None
    gcs_base_url: str

    def vertex_home(self, location: str) -> str:
        """The base URL of Vertex AI in *location*."""
        if self.vertex_base_url is not None:
            return self.vertex_base_url.rstrip("/")
        return veo.vertex_home(location)


def build(surroundings: Surroundings) -> "VeoProvider":
    """The provider as the settings want it."""
    return VeoProvider(endpoints_of(surroundings.endpoints), surroundings.http, GoogleTokens())


def endpoints_of(endpoints: Endpoints) -> VeoEndpoints:
    """Where Google is, by the variables."""
    return VeoEndpoints(
        gemini_base_url=veo.GEMINI.address(endpoints),
        vertex_project=endpoints.get("GOOGLE_CLOUD_PROJECT_ID") or None,
        vertex_location=veo.vertex_location(endpoints),
        vertex_base_url=endpoints.get("VERTEX_BASE_URL") or None,
        vertex_storage_uri=endpoints.get("VIDGEN_VEO_STORAGE_URI") or None,
        gcs_base_url=endpoints.get("GCS_BASE_URL") or "https://storage.googleapis.com",
    )


class VeoProvider:
    """Veo videos by the Gemini API or Vertex AI, as the model wants it."""

    name = "veo"
    charges_failures = False

    def __init__(self, endpoints: VeoEndpoints, http: ProviderHttp, tokens: GoogleTokens) -> None:
        """Remember where; connections are *http*'s, tokens are *tokens*'."""
        self._at = endpoints
        self._google = GoogleHttp(http, tokens)

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        model = submission.request.model
        assert model is not None  # a submission has every default filled in
        api = self._api(model)
        home, path = self._submit_address(api, model, credential)
        # A user's project has no right to our bucket: their videos come inside the answer.
        is_ours = api == "vertex" and credential.project is None
        storage_uri = self._at.vertex_storage_uri if is_ours else None
        # Up to four images of 20 MiB become base64: too long for the loop.
        body = await asyncio.to_thread(_encoded, submission, api, storage_uri)
        answer = await self._google.call(
            "submit",
            f"{home}/{path}",
            api,
            credential,
            post=body,
            not_after=submission.not_after,
        )
        if not answer.ok:
            private = private_texts(submission.request)
            raise google.refusal(answer, "submit", secret=credential.secret, private=private)
        try:
            name = _operation_name(answer.json(), api)
        except ProtocolError as error:
            raise SubmitUnknownError(
                "The submit was accepted, but the answer names no operation; it may be running.",
                http_status=answer.status,
            ) from error
        return Submitted(
            operation=Operation(
                provider=self.name,
                id=name,
                endpoint=home,
                model=model,
                credential_id=credential.id,
                extra={"api": api},
            )
        )

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once; see `Provider.poll`."""
        api = self._checked_api(operation)
        if api == "gemini":
            url = f"{operation.endpoint}/{operation.id}"
            answer = await self._google.call("poll", url, api, credential)
            if not answer.ok:
                raise google.refusal(answer, "poll", secret=credential.secret)
            return parse_operation(answer.json(), api)
        # The answer may carry the whole video: read it through the scanner, not into memory.
        try:
            async with (
                asyncio.timeout(POLL_TIMEOUT_S),
                self._fetched(operation, credential) as stream,
            ):
                body = await inline.shrink(stream.chunks)
        except TimeoutError as error:
            raise TransientError("Google's answer about the video took too long.") from error
        except ResultInvalidError as error:
            raise TransientError(f"Google's answer was cut: {error.message}") from error
        return parse_operation(Answer(status=200, headers={}, body=body).json(), api)

    @asynccontextmanager
    async def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AsyncIterator[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        api = self._checked_api(operation)
        if asset.uri.startswith(INLINE):
            async with self._fetched(operation, credential) as stream:
                index = int(asset.uri.removeprefix(INLINE))
                yield ResultStream(
                    chunks=inline.decoded(stream.chunks, index),
                    content_type=asset.content_type,
                    size_bytes=None,
                )
            return
        if asset.uri.startswith("gs://"):
            home, url = self._at.gcs_base_url, gcs_url(self._at.gcs_base_url, asset.uri)
        else:
            home, url = operation.endpoint, joined(operation.endpoint, asset.uri)
        async with self._opened(url, home, api, credential) as stream:
            yield stream

    async def cancel(self, operation: Operation, credential: Credential) -> bool:
        """Veo has no documented cancel: always False."""
        return False

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether Google takes *credential*; see `Provider.accepts`."""
        api = self._api(model)
        if api == "vertex":
            # A token is given, or not. What it opens shows with the first video: lists want other
            # rights.
            await self._google.headers(api, credential)
            return True
        url = f"{self._at.gemini_base_url.rstrip('/')}/models?pageSize=1"
        answer = await self._google.call("list", url, api, credential)
        if answer.ok:
            return True
        if answer.status in {404, 405, 501}:
            return False
        raise google.refusal(answer, "list", secret=credential.secret)

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""

    def _api(self, model: str) -> Api:
        known = veo.VENDOR.find(model)
        if known is None:  # one that the catalog does not know goes where we can go
            return "gemini" if self._at.vertex_project is None else "vertex"
        return "vertex" if known.api == "vertex" else "gemini"

    def _submit_address(self, api: Api, model: str, credential: Credential) -> tuple[str, str]:
        named = f"models/{quote(model, safe='')}:predictLongRunning"
        if api == "gemini":
            return self._at.gemini_base_url.rstrip("/"), named
        owner = credential.project or self._at.vertex_project
        if owner is None:
            raise InputRejectedError(f"{model} is on Vertex AI: set GOOGLE_CLOUD_PROJECT_ID.")
        project = quote(owner, safe=":")
        location = self._at.vertex_location
        path = f"projects/{project}/locations/{location}/publishers/google/{named}"
        return self._at.vertex_home(location), path

    @asynccontextmanager
    async def _fetched(
        self, operation: Operation, credential: Credential
    ) -> AsyncIterator[ResultStream]:
        """The answer about *operation* as it arrives; on Vertex AI fetchPredictOperation's."""
        found = _VERTEX_NAME.fullmatch(operation.id)
        if found is None:  # a server that speaks the Gemini API, and sends the video inside
            url = f"{operation.endpoint}/{operation.id}"
            async with self._opened(url, operation.endpoint, "gemini", credential) as stream:
                yield stream
            return
        url = f"{operation.endpoint}/{found[1]}:fetchPredictOperation"
        post = orjson.dumps({"operationName": operation.id})
        async with self._opened(url, operation.endpoint, "vertex", credential, post=post) as stream:
            yield stream

    @asynccontextmanager
    async def _opened(
        self, url: str, home: str, api: Api, credential: Credential, *, post: bytes | None = None
    ) -> AsyncIterator[ResultStream]:
        """A stream from *url*, or why there is none."""

        async def refused(answer: Answer) -> ProviderError:
            if post is not None:
                return google.refusal(answer, "poll", secret=credential.secret)
            return _unavailable(answer, api, credential)

        async with self._google.opened(url, home, api, credential, refused, post=post) as stream:
            yield stream

    def _checked_api(self, operation: Operation) -> Api:
        """Which interface has *operation*; its endpoint must be one that may see the credential."""
        if operation.extra.get("api") == "gemini":
            home, variable = self._at.gemini_base_url, "GEMINI_BASE_URL"
            found = _GEMINI_NAME.fullmatch(operation.id)
        else:
            found = _VERTEX_NAME.fullmatch(operation.id)
            home = self._at.vertex_home(found[2] if found else self._at.vertex_location)
            variable = "VERTEX_BASE_URL"
        if found is None:
            raise OperationLostError("The stored operation has no name that Google could know.")
        if not same_origin(operation.endpoint, home):
            raise moved(operation, variable)
        return "gemini" if operation.extra.get("api") == "gemini" else "vertex"


def build_body(submission: Submission, api: Api, storage_uri: str | None) -> dict[str, JsonValue]:
    """The body of `predictLongRunning`, each parameter only where *api* takes it."""
    request = submission.request
    instance: dict[str, JsonValue] = {"prompt": request.prompt}
    references: list[JsonValue] = []
    for image in submission.images:
        match image.role:
            case "first_frame":
                instance["image"] = _image(image)
            case "last_frame":
                instance["lastFrame"] = _image(image)
            case "reference":
                references.append({"image": _image(image), "referenceType": "asset"})
    if references:
        instance["referenceImages"] = references
    parameters: dict[str, JsonValue] = {
        "sampleCount": 1,
        "durationSeconds": request.seconds,
        "aspectRatio": request.aspect_ratio,
        "resolution": request.resolution,
        "negativePrompt": request.negative_prompt,
    }
    if api == "vertex":
        parameters["seed"] = request.seed
        parameters["generateAudio"] = request.audio
        parameters["storageUri"] = storage_uri
    parameters.update(
        (name, value) for name, value in request.extra.items() if name not in _TOP_LEVEL
    )
    body: dict[str, JsonValue] = {
        "instances": [instance],
        "parameters": {name: value for name, value in parameters.items() if value is not None},
    }
    body.update((name, request.extra[name]) for name in _TOP_LEVEL if name in request.extra)
    return body


def parse_operation(data: Mapping[str, Any], api: Api) -> Progress:
    """Turn an operation into progress; the order error, filtered, empty, good is Google's own."""
    if data.get("done") is not True:
        return Running()
    error = data.get("error")
    if isinstance(error, dict):
        # Who cancelled it, and what it cost until then, nobody knows.
        return Failed(error=_in_band(error), charged=error.get("code") == CANCELLED)
    response = data.get("response")
    response = response if isinstance(response, dict) else {}
    inner = response.get("generateVideoResponse")
    result = inner if isinstance(inner, dict) else response
    assets = _assets(result)
    if not assets:
        return _without_video(result, api)
    return Succeeded(assets=assets)


def _in_band(error: Mapping[str, Any]) -> ProviderError:
    code, message = error.get("code"), error.get("message")
    number = code if isinstance(code, int) and not isinstance(code, bool) else None
    if number == 3:
        if isinstance(message, str) and google.family(message) is not None:
            return google.blocked(message)
        return InputRejectedError(
            "Google rejected the request after it had taken it on (code 3 INVALID_ARGUMENT); check"
            " the prompt, the images and the parameters.",
            provider_code="3",
        )
    named = " ".join(filter(None, (word(number), _CODE_WORDS.get(number or 0))))
    sentence = f"The generation failed at Google{f' (code {named})' if named else ''}."
    return GenerationFailedError(sentence, provider_code=word(number))


def _without_video(result: Mapping[str, Any], api: Api) -> Failed:
    reasons = result.get("raiMediaFilteredReasons")
    filtered = result.get("raiMediaFilteredCount")
    if reasons or (isinstance(filtered, int) and filtered > 0):
        text = " ".join(map(str, reasons)) if isinstance(reasons, list) else ""
        return Failed(error=google.blocked(text), charged=api == "vertex")
    return Failed(error=GenerationFailedError("Google finished the operation without a video."))


def _assets(result: Mapping[str, Any]) -> tuple[Asset, ...]:
    """The first video that has an address or bytes; one is asked for, so one is taken."""
    items = result.get("generatedSamples") or result.get("videos") or ()
    inline_count = 0  # as the scanner counts
    for item in items if isinstance(items, list) else ():
        if not isinstance(item, dict):
            continue
        nested = item.get("video")
        video = nested if isinstance(nested, dict) else item
        content_type = media_type(video.get("mimeType"), "video/mp4")
        uri = cleaned(video.get("uri") or video.get("gcsUri"))
        if uri and not uri.startswith(INLINE):  # that word is ours
            return (Asset(variant="video", uri=uri, content_type=content_type),)
        if video.get("bytesBase64Encoded"):
            uri = f"{INLINE}{inline_count}"
            return (Asset(variant="video", uri=uri, content_type=content_type),)
        inline_count += "bytesBase64Encoded" in video
    return ()


def _unavailable(answer: Answer, api: Api, credential: Credential) -> ProviderError:
    # A file of the Gemini API is bound to its project: when gone it may also answer 403.
    if answer.status in {404, 410} or (api == "gemini" and answer.status == 403):
        return ResultExpiredError(
            f"Google no longer has the video ({answer.status}).", http_status=answer.status
        )
    refused = google.refusal(answer, "download", secret=credential.secret)
    if refused.provider_code == "FAILED_PRECONDITION" or answer.status in {409, 425}:
        return NotReadyError(
            "Google calls the video finished but does not hand it out yet.",
            retry_after_s=refused.retry_after_s,
            http_status=answer.status,
        )
    return refused


def _operation_name(data: Mapping[str, Any], api: Api) -> str:
    name = data.get("name")
    pattern = _GEMINI_NAME if api == "gemini" else _VERTEX_NAME
    if (
        not isinstance(name, str)
        or not is_storable_id(name)
        or pattern.fullmatch(name) is None
        or ".." in name
    ):
        raise ProtocolError("Google's answer has no operation name.")
    return name


def gcs_url(base_url: str, uri: str) -> str:
    """Where the object at the `gs://` address *uri* can be read."""
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    path = f"storage/v1/b/{quote(bucket, safe='')}/o/{quote(name, safe='')}"
    return f"{base_url.rstrip('/')}/{path}?alt=media"


def _image(image: ImageBytes) -> dict[str, JsonValue]:
    # The documentation's `inlineData` is answered by 400; this is what the SDK sends.
    return {
        "bytesBase64Encoded": b64encode(image.data).decode("ascii"),
        "mimeType": image.content_type,
    }


def _encoded(submission: Submission, api: Api, storage_uri: str | None) -> bytes:
    return orjson.dumps(build_body(submission, api, storage_uri))
