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
charged, as resellers say of MiniMax's own bills, unless the task counts seconds for one); whether
v1 takes a lone query with task 0 as a question about the key alone (so is `accepts` asked there);
how long v1 keeps a file; whether a Token Plan key opens v2 (its documentation says that v2 is
pay-as-you-go).
"""

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from vidgen.catalog import minimax as catalog
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    InputRejectedError,
    OperationLostError,
    ProtocolError,
    QuotaExhaustedError,
    RateLimitedError,
    ResultExpiredError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers import coded
from vidgen.providers.answer import Answer, Deed, cleaned, number, word
from vidgen.providers.api import NOT_THERE, TOO_LATE, Api, quoted_id
from vidgen.providers.http import ProviderHttp
from vidgen.providers.plain import Said, Vendor, data_uri, filled, video_at
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
        self._api = Api(
            provider=self.name,
            vendor=Vendor(
                label="MiniMax", base_url=base_url.rstrip("/"), variable="MINIMAX_BASE_URL"
            ),
            http=http,
            said=_refused,
            id_field="task_id",
            is_refusal=_is_refusal,
        )

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        version = version_of(submission.request.model or "")
        build = build_first if version == "v1" else build_second
        path = f"{version}/video_generation"
        answer = await self._api.submit(path, build, submission, credential)
        operation = self._api.receipt(answer, submission, credential, extra={"version": version})
        return Submitted(operation=operation)

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once; see `Provider.poll`."""
        answer = await self._look(operation, credential)
        if _version(operation) == "v1":
            ended = _ended_in_base_resp(self._api.vendor, answer)
            if ended is not None:
                return ended
            self._api.check(answer, "poll", credential)
            return parse_first(self._api.vendor, answer.json())
        self._api.check(answer, "poll", credential)
        return parse_second(self._api.vendor, _task(answer), operation.model)

    @asynccontextmanager
    async def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AsyncIterator[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        self._api.vendor.check_home(operation)
        if asset.uri.startswith(FILE):
            file_id = asset.uri.removeprefix(FILE)
            asset = video_at(await self._file_address(file_id, credential))
        async with self._api.open_result(operation, asset, credential) as stream:
            yield stream

    async def cancel(self, operation: Operation, credential: Credential) -> bool | None:
        """Stop a task of v2 that is still queued; v1 has no cancel. See `Provider.cancel`."""
        if _version(operation) == "v1":
            return False
        look = await self._look(operation, credential)
        if look.status in NOT_THERE:
            return None
        self._api.check(look, "cancel", credential)
        if _task(look).get("status") != "queued":
            return False
        url = self._api.at(operation, f"v2/video_generation/{quoted_id(operation)}")
        answer = await self._api.exchange("cancel", "DELETE", url, credential)
        # It may have begun meanwhile.
        return self._api.is_stopped(answer, credential, too_late=TOO_LATE | {422})

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether MiniMax takes *credential*; see `Provider.accepts`."""
        if version_of(model) == "v1":
            path = "v1/query/video_generation?task_id=0"
        else:
            path = "v2/query/video_generation?page_num=1&page_size=1"
        answer = await self._api.exchange("list", "GET", self._api.url(path), credential)
        code, _, _ = _said(answer)
        if answer.status in {405, 501} or (answer.status == 404 and code is None):
            return False
        if version_of(model) == "v1" and _KINDS.get(code or "") is InputRejectedError:
            return True  # the key was good enough to be told that there is no such task
        self._api.check(answer, "list", credential)
        return True

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""

    async def _look(self, operation: Operation, credential: Credential) -> Answer:
        task, version = quoted_id(operation), _version(operation)
        path = f"?task_id={task}" if version == "v1" else f"/{task}"
        url = self._api.at(operation, f"{version}/query/video_generation{path}")
        return await self._api.exchange("poll", "GET", url, credential)

    async def _file_address(self, file_id: str, credential: Credential) -> str:
        """Where the file *file_id* of v1 lies now."""
        address = self._api.url(f"v1/files/retrieve?file_id={quote(file_id, safe='')}")
        answer = await self._api.exchange("download", "GET", address, credential)
        code, _, _ = _said(answer)
        if answer.status in NOT_THERE or _KINDS.get(code or "") is InputRejectedError:
            raise ResultExpiredError(
                "MiniMax no longer has the file of the video.", http_status=answer.status
            )
        self._api.check(answer, "download", credential)
        file = answer.json().get("file")
        url = cleaned(file.get("download_url")) if isinstance(file, dict) else ""
        if not url:
            raise ProtocolError("MiniMax's answer about the file names no address.")
        return url


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
    return Succeeded(assets=(video_at(f"{FILE}{file_id}"),))


def parse_second(vendor: Vendor, task: Mapping[str, Any], model: str) -> Progress:
    """Turn a task of v2 into progress; a word nobody knows means that it is being made."""
    status = str(task.get("status")).lower()
    cost = _cost(task, model)
    if status in _CANCELLED:
        return Failed(error=coded.cancelled(vendor))  # only what is queued can be
    if status == "expired":
        gone = ResultExpiredError("MiniMax no longer keeps the video.")
        return Failed(error=gone, charged=cost != 0, cost_micros=cost)
    if status in _FAILED:
        error = task.get("error")
        code, _ = _code_of(error if isinstance(error, dict) else {})
        verdict = coded.verdict(vendor, code, _KINDS.get(code or ""))
        return Failed(error=verdict, charged=bool(cost), cost_micros=cost)
    if status not in _SUCCEEDED:
        return Running()
    content = task.get("content")
    url = cleaned(content.get("url")) if isinstance(content, dict) else ""
    if not url or url.startswith(FILE):  # that word is ours
        return Failed(error=coded.without_video(vendor), charged=bool(cost), cost_micros=cost)
    return Succeeded(
        assets=(video_at(url),),
        expires_at=coded.signed_until(url),
        cost_micros=cost,
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


def _refused(answer: Answer, deed: Deed) -> Said:
    code, kind, said = _said(answer)
    meant = _KINDS.get(code or "") or _TYPES.get(kind or "")
    return coded.said(deed, code or kind, said, meant)


def _is_refusal(answer: Answer) -> bool:
    code, _, _ = _said(answer)
    return not answer.ok or code not in {None, "0"}


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


def _image(image: ImageBytes) -> str:
    return data_uri(image, max_bytes=MAX_IMAGE_BYTES, label="MiniMax")
