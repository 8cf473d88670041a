"""
MiniMax's Hailuo models, as `minimax`: the second version of its API, and the first one, which older
models still need.

    v2   POST /v2/video_generation                   -> {task_id}
         GET  /v2/query/video_generation/{task_id}   -> {task: {status, content, error, usage}}
         DELETE /v2/video_generation/{task_id}       cancels a queued task, deletes a finished one
    v1   POST /v1/video_generation                   -> {task_id, base_resp}
         GET  /v1/query/video_generation?task_id=    -> {status, file_id, base_resp}
         GET  /v1/files/retrieve?file_id=            -> {file: {download_url}, base_resp}

The model decides, the operation remembers it. The first version tells its errors under HTTP 200, in
`base_resp`; the second one by status, with the same number in brackets at the end of the message.
Its result is a file id, which the download turns into an address, each time a fresh one.

A task is never deleted that may have a video: only what is queued is cancelled, so it is looked at
first. The list of v2 has neither the prompt nor a mark of ours in it, so it proves nothing, and an
ambiguous submit stays one.

Sources: platform.minimax.io, the pages video-generation-v2-create, -query, -list, -delete and
-regeneration (status words, errors with their numbers), its openapi.json of the files and of
/v1/query, and pricing-paygo; PyPI litellm `llms/minimax/videos` for the shapes of task, usage, list
and delete, and the prices; ComfyUI `comfy_api_nodes/apis/minimax.py` for v1. MiniMax has no Python
SDK for videos to be run against a simulator.

Not verified, since no paid key was used: whether failed generations are billed (they count as not
charged, as resellers say of MiniMax's own bills); whether v1 takes a lone query with task 0 as a
question about the key alone (so is `accepts` asked there); how long v1 keeps a file; whether a
Token Plan key opens v2 (its documentation says that v2 is pay-as-you-go).
"""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import orjson

from vidgen.catalog import minimax as catalog
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    InputRejectedError,
    OperationLostError,
    ProtocolError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitedError,
    ResultExpiredError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers import coded
from vidgen.providers.answer import Answer, Deed, cleaned, number, private_texts, word
from vidgen.providers.http import ProviderHttp, joined
from vidgen.providers.plain import Vendor, bearer, data_uri, filled, usable_id
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

FILE = "file:"
MAX_IMAGE_BYTES = 27 * 1024 * 1024  # v1 takes 20 MiB, as base64

_OLDER = re.compile(r"minimax-hailuo|[tis]2v-", re.IGNORECASE)
_NUMBERED = re.compile(r"\((\d{4,5})\)\s*$")
_SUCCEEDED = frozenset({"succeeded", "success"})
_FAILED = frozenset({"failed", "fail"})
_CANCELLED = frozenset({"cancelled", "canceled"})
_KINDS: Mapping[str, coded.Kind] = {
    "1000": SubmitUnknownError,  # an unknown error
    "1001": SubmitUnknownError,  # a timeout
    "1002": RateLimitedError,
    "1004": AuthError,
    "1008": QuotaExhaustedError,  # the balance is used up
    "1013": SubmitUnknownError,  # an error within
    "1024": SubmitUnknownError,  # an error within
    "1026": ContentBlockedError,  # of the input
    "1027": ContentBlockedError,  # of the output
    "1033": SubmitUnknownError,  # a system behind it
    "1039": RateLimitedError,
    "1041": RateLimitedError,  # connections
    "1042": InputRejectedError,  # invisible characters
    "2013": InputRejectedError,
    "20132": InputRejectedError,
    "2045": RateLimitedError,  # it grew too fast
    "2049": AuthError,  # an invalid key
    "2056": QuotaExhaustedError,  # the plan's share of these hours is used up
    "2061": AuthError,  # the plan does not have this model
}
# The second version's words, where no number comes along.
_TYPES: Mapping[str, coded.Kind] = {
    "authorized_error": AuthError,
    "insufficient_balance_error": QuotaExhaustedError,
    "rate_limit_error": RateLimitedError,
    "overloaded_error": TransientError,
}


def build(surroundings: Surroundings) -> "MiniMaxProvider":
    """The provider as the settings want it."""
    (interface,) = catalog.VENDOR.interfaces
    return MiniMaxProvider(surroundings.address(interface), surroundings.http)


class MiniMaxProvider:
    """Videos by MiniMax at *base_url*, e.g. `https://api.minimax.io`."""

    name = "minimax"
    charges_failures = False

    def __init__(self, base_url: str, http: ProviderHttp) -> None:
        """Remember where; connections are *http*'s."""
        self._http = http
        self._vendor = Vendor(
            label="MiniMax", base_url=base_url.rstrip("/"), variable="MINIMAX_BASE_URL"
        )

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        model = submission.request.model
        assert model is not None  # a submission has every default filled in
        version = version_of(model)
        body = await asyncio.to_thread(_encoded, submission)
        answer = await self._http.exchange(
            "submit",
            "POST",
            f"{self._vendor.base_url}/{version}/video_generation",
            headers=bearer(credential),
            json=body,
            not_after=submission.not_after,
        )
        self._check(answer, "submit", credential, private_texts(submission.request))
        try:
            found = usable_id({"id": answer.json().get("task_id")})
        except ProtocolError as error:
            raise self._vendor.accepted(answer) from error
        return Submitted(
            operation=Operation(
                provider=self.name,
                id=found,
                endpoint=self._vendor.base_url,
                model=model,
                credential_id=credential.id,
                extra={"version": version},
            )
        )

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once; see `Provider.poll`."""
        answer = await self._look(operation, credential)
        if _version(operation) == "v1":
            ended = _ended_in_base_resp(self._vendor, answer)
            if ended is not None:
                return ended
            self._check(answer, "poll", credential)
            return parse_first(self._vendor, answer.json())
        self._check(answer, "poll", credential)
        return parse_second(self._vendor, _task(answer), operation.model)

    @asynccontextmanager
    async def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AsyncIterator[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        self._vendor.check_home(operation)
        url = joined(self._vendor.base_url, asset.uri)
        if asset.uri.startswith(FILE):
            url = await self._file_address(asset.uri.removeprefix(FILE), credential)

        async def refused(answer: Answer) -> ProviderError:
            found = self._vendor.unavailable(answer, Asset(variant="video", uri=url))
            return found or self._refusal(answer, "download", credential)

        async with self._http.download(
            url, home=self._vendor.base_url, credential=bearer(credential), refusal=refused
        ) as stream:
            yield stream

    async def cancel(self, operation: Operation, credential: Credential) -> bool | None:
        """Stop a task of v2 that is still queued; v1 has no cancel. See `Provider.cancel`."""
        if _version(operation) == "v1":
            return False
        look = await self._look(operation, credential)
        if look.status in {404, 410}:
            return None
        self._check(look, "cancel", credential)
        if _task(look).get("status") != "queued":
            return False
        answer = await self._http.exchange(
            "cancel",
            "DELETE",
            f"{operation.endpoint}/v2/video_generation/{quote(operation.id, safe='')}",
            headers=bearer(credential),
        )
        if answer.status in {404, 410}:
            return None
        if answer.status in {400, 405, 409, 422, 501}:
            return False  # it has begun meanwhile
        self._check(answer, "cancel", credential)
        return True

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether MiniMax takes *credential*; see `Provider.accepts`."""
        if version_of(model) == "v1":
            path = "v1/query/video_generation?task_id=0"
        else:
            path = "v2/query/video_generation?page_num=1&page_size=1"
        answer = await self._http.exchange(
            "list", "GET", f"{self._vendor.base_url}/{path}", headers=bearer(credential)
        )
        code, _, _ = _said(answer)
        if answer.status in {405, 501} or (answer.status == 404 and code is None):
            return False
        if version_of(model) == "v1" and _KINDS.get(code or "") is InputRejectedError:
            return True  # the key was good enough to be told that there is no such task
        self._check(answer, "list", credential)
        return True

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""

    async def _look(self, operation: Operation, credential: Credential) -> Answer:
        self._vendor.check_home(operation)
        task, version = quote(operation.id, safe=""), _version(operation)
        path = f"?task_id={task}" if version == "v1" else f"/{task}"
        return await self._http.exchange(
            "poll",
            "GET",
            f"{operation.endpoint}/{version}/query/video_generation{path}",
            headers=bearer(credential),
        )

    async def _file_address(self, file_id: str, credential: Credential) -> str:
        """Where the file *file_id* of v1 lies now."""
        answer = await self._http.exchange(
            "download",
            "GET",
            f"{self._vendor.base_url}/v1/files/retrieve?file_id={quote(file_id, safe='')}",
            headers=bearer(credential),
        )
        code, _, _ = _said(answer)
        if answer.status in {404, 410} or _KINDS.get(code or "") is InputRejectedError:
            raise ResultExpiredError(
                "MiniMax no longer has the file of the video.", http_status=answer.status
            )
        self._check(answer, "download", credential)
        file = answer.json().get("file")
        url = cleaned(file.get("download_url")) if isinstance(file, dict) else ""
        if not url:
            raise ProtocolError("MiniMax's answer about the file names no address.")
        return joined(self._vendor.base_url, url)

    def _check(
        self, answer: Answer, deed: Deed, credential: Credential, private: tuple[str, ...] = ()
    ) -> None:
        """Return if *answer* is none of MiniMax's errors, which may come under HTTP 200."""
        code, _, _ = _said(answer)
        if not answer.ok or code not in {None, "0"}:
            raise self._refusal(answer, deed, credential, private)

    def _refusal(
        self, answer: Answer, deed: Deed, credential: Credential, private: tuple[str, ...] = ()
    ) -> ProviderError:
        code, kind, said = _said(answer)
        return coded.refusal(
            self._vendor,
            answer,
            deed,
            code=code or kind,
            said=said,
            kind=_KINDS.get(code or "") or _TYPES.get(kind or ""),
            secrets=(credential.secret,),
            private=private,
        )


def version_of(model: str) -> str:
    """Which version of the API serves *model*; an unknown one is a newer one."""
    return "v1" if _OLDER.match(model) else "v2"


def build_first(submission: Submission) -> dict[str, JsonValue]:
    """The body of v1, whose clip has the shape of its first frame, or is landscape."""
    request = submission.request
    frames = {image.role: _image(image) for image in submission.images}
    return filled(
        {
            "model": request.model,
            "prompt": request.prompt,
            "duration": request.seconds,
            "resolution": _resolution(request.resolution),
            "first_frame_image": frames.get("first_frame"),
            "last_frame_image": frames.get("last_frame"),
            **request.extra,
        }
    )


def build_second(submission: Submission) -> dict[str, JsonValue]:
    """The body of v2; beside frames a ratio has no meaning, so none is sent."""
    request = submission.request
    content: list[JsonValue] = [{"type": "text", "text": request.prompt}]
    for image in submission.images:
        role = "reference_image" if image.role == "reference" else image.role
        content.append({"type": "image_url", "image_url": {"url": _image(image)}, "role": role})
    has_frames = any(image.role != "reference" for image in submission.images)
    return filled(
        {
            "model": request.model,
            "content": content,
            "resolution": _resolution(request.resolution),
            "duration": request.seconds,
            "ratio": None if has_frames else request.aspect_ratio,
            **request.extra,
        }
    )


def parse_first(vendor: Vendor, task: Mapping[str, Any]) -> Progress:
    """Turn an answer of v1 into progress; a word nobody knows means that it is being made."""
    status = task.get("status")
    if not isinstance(status, str):
        raise ProtocolError("MiniMax's answer about the video has no status.")
    if status.lower() in _FAILED:
        return Failed(error=coded.verdict(vendor, None, None))
    if status.lower() not in _SUCCEEDED:
        return Running()
    file_id = word(task.get("file_id"))
    if not file_id:
        return Failed(error=coded.without_video(vendor))
    return Succeeded(
        assets=(Asset(variant="video", uri=f"{FILE}{file_id}", content_type="video/mp4"),)
    )


def parse_second(vendor: Vendor, task: Mapping[str, Any], model: str) -> Progress:
    """Turn a task of v2 into progress; a word nobody knows means that it is being made."""
    status = str(task.get("status")).lower()
    if status in _CANCELLED:
        return Failed(error=coded.cancelled(vendor))  # only what is queued can be
    if status == "expired":
        return Failed(error=ResultExpiredError("MiniMax no longer keeps the video."), charged=True)
    if status in _FAILED:
        error = task.get("error")
        code, _ = _code_of(error if isinstance(error, dict) else {})
        return Failed(error=coded.verdict(vendor, code, _KINDS.get(code or "")))
    if status not in _SUCCEEDED:
        return Running()
    content = task.get("content")
    url = cleaned(content.get("url")) if isinstance(content, dict) else ""
    if not url or url.startswith(FILE):  # that word is ours
        return Failed(error=coded.without_video(vendor))
    return Succeeded(
        assets=(Asset(variant="video", uri=url, content_type="video/mp4"),),
        expires_at=coded.signed_until(url),
        cost_micros=_cost(task, model),
    )


def _cost(task: Mapping[str, Any], model: str) -> int | None:
    """The seconds that were counted, and the images beyond the free ones, at the list price."""
    usage, known = task.get("usage"), catalog.VENDOR.find(model)
    if not isinstance(usage, dict) or known is None:
        return None
    price = known.micros_per_second().get(str(task.get("resolution") or "").lower())
    seconds = number(usage.get("total_seconds"))
    if price is None or seconds is None:
        return None
    images = number(usage.get("input_image_count")) or 0
    cost = coded.micros(seconds, price)
    beyond = coded.micros(max(0, images - catalog.FREE_IMAGES), catalog.IMAGE_MICROS)
    return None if cost is None or beyond is None else cost + beyond


def _ended_in_base_resp(vendor: Vendor, answer: Answer) -> Failed | None:
    """The verdict that v1 tells in `base_resp`, beside a status or without one."""
    if not answer.ok:
        return None
    body, (code, _, _) = answer.json(), _said(answer)
    kind = _KINDS.get(code or "")
    is_over = str(body.get("status")).lower() in _FAILED
    if kind is ContentBlockedError or (is_over and code not in {None, "0"}):
        return Failed(error=coded.verdict(vendor, code, kind))
    return None


def _said(answer: Answer) -> tuple[str | None, str | None, str]:
    """MiniMax's number, its word, and its message, of either version."""
    body = answer.lenient_json()
    if not isinstance(body, dict):
        return None, None, ""
    base = body.get("base_resp")
    if isinstance(base, dict):
        said = base.get("status_msg")
        found = number(base.get("status_code"))
        code = None if found is None else f"{found:.0f}"
        return code, None, said if isinstance(said, str) else ""
    error = body.get("error")
    if not isinstance(error, dict):
        return None, None, ""
    code, said = _code_of(error)
    return code, word(error.get("type")), said


def _code_of(error: Mapping[str, Any]) -> tuple[str | None, str]:
    """The number of an error of v2, which stands in its `code` or ends its message."""
    said = error.get("message")
    text = said if isinstance(said, str) else ""
    numbered = _NUMBERED.search(text)
    return (numbered[1] if numbered else None) or word(error.get("code")), text


def _task(answer: Answer) -> dict[str, Any]:
    task = answer.json().get("task")
    if not isinstance(task, dict) or not isinstance(task.get("status"), str):
        raise ProtocolError("MiniMax's answer about the video has no status.")
    return task


def _version(operation: Operation) -> str:
    found = operation.extra.get("version")
    if found not in {"v1", "v2"}:
        raise OperationLostError(
            "The stored operation does not say which version of MiniMax's API made it."
        )
    return str(found)


def _resolution(word_of_ours: str | None) -> str | None:
    return None if word_of_ours is None else word_of_ours.upper()  # 768p -> 768P


def _image(image: Any) -> str:
    return data_uri(image, max_bytes=MAX_IMAGE_BYTES, label="MiniMax")


def _encoded(submission: Submission) -> bytes:
    model = submission.request.model or ""
    build = build_first if version_of(model) == "v1" else build_second
    return orjson.dumps(build(submission))
