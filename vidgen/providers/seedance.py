"""
ByteDance's Seedance on Ark, as `seedance`: BytePlus ModelArk, and Volcengine Ark in China.

    POST   /contents/generations/tasks        -> {id}
    GET    /contents/generations/tasks/{id}   -> {status, content: {video_url}, usage, error, …}
    DELETE /contents/generations/tasks/{id}   cancels a queued task, deletes a finished one
    GET    /contents/generations/tasks        ?page_num ?page_size ?filter.task_ids

Ark bills tokens, and a finished task tells how many: the cost is that many at the list price of the
model and the resolution. A task is never deleted that may have a video: only what is queued is
cancelled, so it is looked at first. The list can be asked for many tasks by their ids; it holds
neither the prompt nor a mark of ours, so an ambiguous submit cannot be cleared up with it.

Sources: PyPI byteplus-python-sdk-v2 3.0.63 and volcengine-python-sdk 5.0.54
(`resources/content_generation/tasks.py` and its types: paths, fields, filters; both SDKs were run
against the simulator); PyPI litellm `llms/volcengine/videos` (`expired`, tokens as width x height x
24 x seconds / 1024, Volcengine's prices); ComfyUI `comfy_api_nodes/apis/bytedance.py` (BytePlus's
model ids and prices for 1000 tokens, images a request may carry); the error codes of BytePlus's
documentation page 1520757 as quoted in public nodes for ComfyUI (status and word of each,
`TaskRunningCannotCancel`); docs.volcengine.com 82379/1099320 (only successful tasks are billed, 24
hours of keeping).

Not verified, since no paid key was used: that `expired` always means that a task was not made in
time (`execution_expires_after`, so it counts as failed and not charged); that `QuotaExceeded` with
the word queue means too many waiting tasks; BytePlus's own price for Seedance 2.5 at 1080p, which
is therefore not offered.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any
from urllib.parse import quote

from vidgen.catalog import seedance as catalog
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    ModelRetiredError,
    ProtocolError,
    QuotaExhaustedError,
    RateLimitedError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers import coded
from vidgen.providers.answer import Answer, Deed, cleaned, moment, word
from vidgen.providers.api import NOT_THERE, Api, quoted_id
from vidgen.providers.http import ProviderHttp, same_origin
from vidgen.providers.plain import Said, Vendor, data_uri, filled, video_at
from vidgen.providers.protocol import (
    Asset,
    Credential,
    Failed,
    ImageBytes,
    Overview,
    Progress,
    ResultStream,
    Running,
    Submission,
    Submitted,
    Succeeded,
)
from vidgen.providers.registry import Surroundings

KEPT = timedelta(hours=24)
MAX_IMAGE_BYTES = 40 * 1024 * 1024  # 30 MB, as base64
PAGE_LENGTH = 100
_TASKS = "contents/generations/tasks"

_KINDS: Mapping[str, coded.Kind] = {
    "AuthenticationError": AuthError,
    "InvalidAuthorization": AuthError,
    "AccessDenied": AuthError,
    "Unauthorized": AuthError,
    "OperationDenied": AuthError,
    "InvalidAccountStatus": AuthError,
    "InvalidSubscription": AuthError,
    "ModelNotOpen": AuthError,  # the account has not switched it on
    "ServiceNotOpen": AuthError,
    "AccountOverdueError": QuotaExhaustedError,
    "ServiceOverdue": QuotaExhaustedError,
    "QuotaExceeded": QuotaExhaustedError,
    "SetLimitExceeded": QuotaExhaustedError,  # a limit of the account's own
    "RateLimitExceeded": RateLimitedError,
    "AccountRateLimitExceeded": RateLimitedError,
    "ModelAccountRpmRateLimitExceeded": RateLimitedError,
    "ModelAccountTpmRateLimitExceeded": RateLimitedError,
    "ModelAccountIpmRateLimitExceeded": RateLimitedError,
    "APIAccountRpmRateLimitExceeded": RateLimitedError,
    "InflightBatchsizeExceeded": RateLimitedError,
    "RequestBurstTooFast": RateLimitedError,
    "ServerOverloaded": RateLimitedError,
    "ModelLoadingError": RateLimitedError,
    "InternalServiceError": SubmitUnknownError,
    "ServiceUnavailable": TransientError,
    "ContentSecurityDetectionError": TransientError,  # the moderation itself did not work
    "InvalidEndpointOrModel": ModelRetiredError,
    "InvalidEndpoint": ModelRetiredError,
    "UnsupportedModel": ModelRetiredError,
    "ModelNotFound": ModelRetiredError,
    "MissingParameter": InputRejectedError,
    "InvalidParameter": InputRejectedError,
    "InvalidArgumentError": InputRejectedError,
    "InvalidImageURL": InputRejectedError,
    "InvalidImageDetail": InputRejectedError,
    "InvalidPixelLimit": InputRejectedError,
    "RequestBodyTooLarge": InputRejectedError,
}
_BLOCKED_WORDS = ("sensitivecontent", "riskdetection", "policyviolation", "realperson")


def build(surroundings: Surroundings) -> "SeedanceProvider":
    """The provider as the settings want it."""
    (interface,) = catalog.VENDOR.interfaces
    return SeedanceProvider(surroundings.address(interface), surroundings.http)


class SeedanceProvider:
    """Videos by Ark at *base_url*, e.g. `https://ark.ap-southeast.bytepluses.com/api/v3`."""

    name = "seedance"
    charges_failures = False

    def __init__(self, base_url: str, http: ProviderHttp) -> None:
        """Remember where; connections are *http*'s."""
        vendor = Vendor(label="Ark", base_url=base_url.rstrip("/"), variable="ARK_BASE_URL")
        self._api = Api(
            provider=self.name, vendor=vendor, http=http, said=_refused, is_refusal=_is_refusal
        )

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        answer = await self._api.submit(_TASKS, build_body, submission, credential)
        return Submitted(operation=self._api.receipt(answer, submission, credential))

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once; see `Provider.poll`."""
        url = self._api.at(operation, _path(operation))
        answer = await self._api.exchange("poll", "GET", url, credential)
        task = answer.json() if answer.ok else {}
        if isinstance(task.get("status"), str):  # a failed one has an error in it, too
            return parse_task(self._api.vendor, task, operation.model)
        self._api.check(answer, "poll", credential)
        raise ProtocolError("Ark's answer about the video has no status.")

    def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        return self._api.open_result(operation, asset, credential)

    async def cancel(self, operation: Operation, credential: Credential) -> bool | None:
        """Stop a task that is still queued; see `Provider.cancel`."""
        url = self._api.at(operation, _path(operation))
        look = await self._api.exchange("cancel", "GET", url, credential)
        if look.status in NOT_THERE:
            return None
        self._api.check(look, "cancel", credential)
        if look.json().get("status") != "queued":
            return False
        answer = await self._api.exchange("cancel", "DELETE", url, credential)
        return self._api.is_stopped(answer, credential)  # False: it has begun meanwhile

    async def look_through(
        self, wanted: Sequence[Operation], credential: Credential, pages: int
    ) -> Overview:
        """What the list says about *wanted*, which it is asked for by name; see `ListsVideos`."""
        home = self._api.vendor.base_url
        missing = {each.id: each for each in wanted if same_origin(each.endpoint, home)}
        found: dict[str, Progress] = {}
        names = list(missing)[: pages * PAGE_LENGTH]
        begins = range(0, len(names), PAGE_LENGTH)
        for begin in begins:
            asked = names[begin : begin + PAGE_LENGTH]
            filters = "".join(f"&filter.task_ids={quote(name, safe='')}" for name in asked)
            url = self._api.url(f"{_TASKS}?page_num=1&page_size={PAGE_LENGTH}{filters}")
            answer = await self._api.ask("list", "GET", url, credential)
            for task in _items(answer):
                operation = missing.get(str(task.get("id")))
                if operation is not None and isinstance(task.get("status"), str):
                    found[operation.id] = parse_task(self._api.vendor, task, operation.model)
        return Overview(found=found, pages=len(begins))

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether Ark takes *credential*; see `Provider.accepts`."""
        return await self._api.accepts(f"{_TASKS}?page_num=1&page_size=1", credential)

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""


def kind_of(code: str | None, said: str = "") -> coded.Kind | None:
    """What *code* means to a submit; what follows the first dot is only more exact."""
    if code is None:
        return None
    if any(term in code.lower() for term in _BLOCKED_WORDS):
        return ContentBlockedError
    if code == "QuotaExceeded" and "queue" in said.lower():
        return RateLimitedError
    if code == "OperationDenied.ServiceOverdue":
        return QuotaExhaustedError
    return _KINDS.get(code.partition(".")[0])


def build_body(submission: Submission) -> dict[str, JsonValue]:
    """The body of the submit; what is not asked for is left out."""
    request = submission.request
    content: list[JsonValue] = [{"type": "text", "text": request.prompt}]
    for image in submission.images:
        role = "reference_image" if image.role == "reference" else image.role
        content.append({"type": "image_url", "image_url": {"url": _image(image)}, "role": role})
    return filled(
        {
            "model": request.model,
            "content": content,
            "resolution": request.resolution,
            "ratio": request.aspect_ratio,
            "duration": request.seconds,
            "seed": request.seed,
            "generate_audio": request.audio,
            **request.extra,
        }
    )


def parse_task(vendor: Vendor, task: Mapping[str, Any], model: str) -> Progress:
    """Turn a task into progress; a word nobody knows means that it is still being made."""
    match str(task.get("status")).lower():
        case "succeeded":
            return _finished(vendor, task, model)
        case "failed":
            code, said = _said(task)
            error = coded.verdict(vendor, code, kind_of(code, said))
            cost_micros = _cost(task, model)
            return Failed(error=error, charged=bool(cost_micros), cost_micros=cost_micros)
        case "cancelled" | "canceled":
            return Failed(error=coded.cancelled(vendor))  # only what is queued can be
        case "expired":
            return Failed(
                error=GenerationFailedError("Ark did not make the video in time, and gave it up.")
            )
        case _:
            return Running()


def _finished(vendor: Vendor, task: Mapping[str, Any], model: str) -> Progress:
    content = task.get("content")
    url = cleaned(content.get("video_url")) if isinstance(content, dict) else ""
    cost_micros = _cost(task, model)
    if not url:
        error = coded.without_video(vendor)
        return Failed(error=error, charged=bool(cost_micros), cost_micros=cost_micros)
    ended_at = moment(task.get("updated_at"))
    return Succeeded(
        assets=(video_at(url),),
        expires_at=coded.signed_until(url) or (None if ended_at is None else ended_at + KEPT),
        cost_micros=cost_micros,
    )


def _cost(task: Mapping[str, Any], model: str) -> int | None:
    usage = task.get("usage")
    price = catalog.micros_per_million(
        model, str(task.get("resolution") or ""), audio=task.get("generate_audio") is not False
    )
    if price is None or not isinstance(usage, dict):
        return None
    tokens = coded.micros(usage.get("completion_tokens"), 1)
    return None if tokens is None else coded.micros(tokens * price / 1_000_000, 1)


def _said(body: object) -> tuple[str | None, str]:
    """Ark's code and message, of a refused request or of a failed task."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return None, ""
    said = error.get("message")
    return word(error.get("code")), said if isinstance(said, str) else ""


def _refused(answer: Answer, deed: Deed) -> Said:
    code, said = _said(answer.lenient_json())
    return coded.said(deed, code, said, kind_of(code, said))


def _is_refusal(answer: Answer) -> bool:
    body = answer.lenient_json()
    is_error = _said(body)[0] is not None and not isinstance(body.get("status"), str)
    return not answer.ok or is_error


def _path(operation: Operation) -> str:
    return f"{_TASKS}/{quoted_id(operation)}"


def _items(answer: Answer) -> list[dict[str, Any]]:
    items = answer.json().get("items")
    if not isinstance(items, list):
        raise ProtocolError("Ark's list of tasks has no items.")
    return [item for item in items if isinstance(item, dict)]


def _image(image: ImageBytes) -> str:
    return data_uri(image, max_bytes=MAX_IMAGE_BYTES, label="Ark")
