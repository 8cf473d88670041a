"""
Alibaba's Wan on DashScope (Model Studio), as `wan`.

    POST /services/aigc/video-generation/video-synthesis   X-DashScope-Async: enable
                                  -> {output: {task_id, task_status}, request_id}
    GET  /tasks/{task_id}         -> {output: {task_status, video_url, code, message}, usage}
    POST /tasks/{task_id}/cancel  only while it is PENDING

A key opens one region, and only that region knows its tasks, so the operation keeps the address. An
unknown task is answered with HTTP 200 and `UNKNOWN`: a task is kept for 24 hours, as its address
is. DashScope tells what it counted (seconds and resolution), not what it took: the cost is that at
the list price of Singapore; Beijing is cheaper.

The list of tasks has neither the prompt nor a mark of ours in it, so an ambiguous submit cannot be
cleared up with it.

Sources: alibabacloud.com/help/model-studio, the pages wan3-video-generation-api-reference,
legacy-wan-text-to-video-api-reference and error-code (regions, the header, 24 hours, codes); PyPI
dashscope 2.0.2 (`aigc/video_synthesis.py`, `client/base_api.py`, `common/constants.py`: paths,
states, cancel "PENDING task", list; run against the simulator); PyPI litellm
`llms/dashscope/videos` and its price map (`media`, tiers, usage, prices by region); ComfyUI
`comfy_api_nodes/apis/wan.py` and the schemas of docs.comfy.org (limits, roles, seed up to
2147483647).

Not verified, since no paid key was used: that `media` takes an image as a data URL (litellm sends
it so); that failed tasks are not billed (the documentation of prices says so for successful ones
only); that a wrong key is told by the list of tasks; how long a prompt of Wan 2.7 may be before it
is cut in silence (5000 characters is what a reseller of DashScope says).
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from vidgen.catalog import wan as catalog
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    InputRejectedError,
    ModelRetiredError,
    ProtocolError,
    QuotaExhaustedError,
    RateLimitedError,
    ResultExpiredError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers import coded
from vidgen.providers.answer import Answer, Deed, cleaned, word
from vidgen.providers.api import TOO_LATE, Api, quoted_id
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

ASYNC = {"X-DashScope-Async": "enable"}
MAX_IMAGE_BYTES = 14 * 1024 * 1024  # 10 MB, as base64
_SYNTHESIS = "services/aigc/video-generation/video-synthesis"
_INPUT_FIELDS = frozenset({"negative_prompt", "audio_url"})

_KINDS: Mapping[str, coded.Kind] = {
    "InvalidApiKey": AuthError,
    "invalid_api_key": AuthError,
    "AccessDenied": AuthError,
    "access_denied": AuthError,
    "WorkSpaceNotFound": AuthError,
    "NotAuthorized": AuthError,
    "Arrearage": QuotaExhaustedError,
    "PrepaidBillOverdue": QuotaExhaustedError,
    "PostpaidBillOverdue": QuotaExhaustedError,
    "CommodityNotPurchased": QuotaExhaustedError,
    "BudgetLimitExceeded": QuotaExhaustedError,
    "AllocationQuota": QuotaExhaustedError,  # .FreeTierOnly
    "Throttling": RateLimitedError,  # .RateQuota, .BurstRate, .AllocationQuota, …
    "LimitRequests": RateLimitedError,
    "limit_requests": RateLimitedError,
    "insufficient_quota": RateLimitedError,  # of these minutes, whatever the word says
    "DataInspectionFailed": ContentBlockedError,
    "data_inspection_failed": ContentBlockedError,
    "IPInfringementSuspect": ContentBlockedError,
    "FaqRuleBlocked": ContentBlockedError,
    "ModelNotFound": ModelRetiredError,
    "model_not_found": ModelRetiredError,
    "ModelNotSupported": ModelRetiredError,
    "UnsupportedModel": ModelRetiredError,
    "InvalidParameter": InputRejectedError,
    "InvalidParameterValue": InputRejectedError,
    "invalid_parameter_error": InputRejectedError,
    "InvalidURL": InputRejectedError,
    "InvalidImage": InputRejectedError,
    "InvalidFile": InputRejectedError,
    "BadRequest": InputRejectedError,
    "UnsupportedOperation": InputRejectedError,
    "InternalError": SubmitUnknownError,
    "internal_error": SubmitUnknownError,
    "SystemError": SubmitUnknownError,
    "ModelServiceFailed": SubmitUnknownError,
    "ModelServingError": SubmitUnknownError,
    "ModelUnavailable": TransientError,
    "ServiceUnavailable": TransientError,
    "RequestTimeOut": SubmitUnknownError,
    "ResponseTimeout": SubmitUnknownError,
}
_EXACT: Mapping[str, coded.Kind] = {
    "InternalError.Timeout": SubmitUnknownError,
    "Model.AccessDenied": AuthError,
    "Workspace.AccessDenied": AuthError,
    "App.AccessDenied": AuthError,
}


def build(surroundings: Surroundings) -> "WanProvider":
    """The provider as the settings want it."""
    (interface,) = catalog.VENDOR.interfaces
    return WanProvider(surroundings.address(interface), surroundings.http)


class WanProvider:
    """Videos by DashScope at *base_url*, e.g. `https://dashscope-intl.aliyuncs.com/api/v1`."""

    name = "wan"
    charges_failures = False

    def __init__(self, base_url: str, http: ProviderHttp) -> None:
        """Remember where; connections are *http*'s."""
        self._api = Api(
            provider=self.name,
            vendor=Vendor(
                label="DashScope", base_url=base_url.rstrip("/"), variable="DASHSCOPE_BASE_URL"
            ),
            http=http,
            said=_refused,
            id_field="task_id",
            is_refusal=lambda answer: not answer.ok or _is_error(answer),
        )

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        answer = await self._api.submit(_SYNTHESIS, build_body, submission, credential, ASYNC)
        operation = self._api.receipt(answer, submission, credential, read=_output)
        return Submitted(operation=operation)

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once; see `Provider.poll`."""
        url = self._api.at(operation, _path(operation))
        answer = await self._api.ask("poll", "GET", url, credential)
        output = _output(answer)
        if not isinstance(output.get("task_status"), str):
            raise ProtocolError("DashScope's answer about the video has no status.")
        usage = answer.json().get("usage")
        return parse_task(self._api.vendor, output, usage, operation.model)

    def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        return self._api.open_result(operation, asset, credential)

    async def cancel(self, operation: Operation, credential: Credential) -> bool | None:
        """Stop a task that is still waiting; see `Provider.cancel`."""
        url = self._api.at(operation, f"{_path(operation)}/cancel")
        answer = await self._api.exchange("cancel", "POST", url, credential)
        if answer.ok:
            return not _is_error(answer)
        too_late = () if _is_about_the_account(answer) else TOO_LATE
        return self._api.is_stopped(answer, credential, too_late=too_late)

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether DashScope takes *credential*; see `Provider.accepts`."""
        return await self._api.accepts("tasks?page_no=1&page_size=1", credential)

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""


def kind_of(code: str | None, said: str = "") -> coded.Kind | None:
    """What *code* means to a submit; what follows the first dot is only more exact."""
    if code is None:
        return None
    if code == "Throttling.AllocationQuota" and "free allocated quota" in said.lower():
        return QuotaExhaustedError
    return _EXACT.get(code) or _KINDS.get(code.partition(".")[0])


def build_body(submission: Submission) -> dict[str, JsonValue]:
    """The body of the submit; with a first frame the clip has its shape, and is told none."""
    request = submission.request
    has_frames = any(image.role != "reference" for image in submission.images)
    media: list[JsonValue] = [
        {
            "type": "reference_image" if image.role == "reference" else image.role,
            "url": _image(image),
        }
        for image in submission.images
    ]
    inputs = {name: value for name, value in request.extra.items() if name in _INPUT_FIELDS}
    parameters = {name: value for name, value in request.extra.items() if name not in inputs}
    return {
        "model": request.model,
        "input": filled(
            {
                "prompt": request.prompt,
                "negative_prompt": request.negative_prompt,
                "media": media or None,
                **inputs,
            }
        ),
        "parameters": filled(
            {
                "resolution": None if request.resolution is None else request.resolution.upper(),
                "ratio": None if has_frames else request.aspect_ratio,
                "duration": request.seconds,
                "seed": request.seed,
                "audio": request.audio,
                **parameters,
            }
        ),
    }


def parse_task(vendor: Vendor, output: Mapping[str, Any], usage: object, model: str) -> Progress:
    """Turn a task into progress; a word nobody knows means that it is still being made."""
    match str(output.get("task_status")).upper():
        case "SUCCEEDED":
            url = cleaned(output.get("video_url"))
            cost_micros = _cost(usage, model)
            if not url:
                error = coded.without_video(vendor)
                return Failed(error=error, charged=bool(cost_micros), cost_micros=cost_micros)
            return Succeeded(
                assets=(video_at(url),),
                expires_at=coded.signed_until(url),
                cost_micros=cost_micros,
            )
        case "FAILED":
            code, said = _said(output)
            error = coded.verdict(vendor, code, kind_of(code, said))
            cost_micros = _cost(usage, model)
            return Failed(error=error, charged=bool(cost_micros), cost_micros=cost_micros)
        case "CANCELED" | "CANCELLED":
            return Failed(error=coded.cancelled(vendor))  # only what is waiting can be
        case "UNKNOWN":
            # What became of it, and what it cost, nobody knows any more.
            return Failed(
                error=ResultExpiredError(
                    "DashScope no longer keeps the task, or another region has it."
                ),
                charged=True,
            )
        case _:
            return Running()


def _cost(usage: object, model: str) -> int | None:
    """The seconds that were counted, at the list price of their resolution."""
    known = catalog.VENDOR.find(model)
    if not isinstance(usage, dict) or known is None:
        return None
    price = known.micros_per_second().get(f"{word(usage.get('SR')) or ''}p")
    return None if price is None else coded.micros(usage.get("duration"), price)


def _said(body: object) -> tuple[str | None, str]:
    """DashScope's code and message, of a refused request or of a failed task."""
    if not isinstance(body, dict):
        return None, ""
    said = body.get("message")
    return word(body.get("code")) or None, said if isinstance(said, str) else ""


def _refused(answer: Answer, deed: Deed) -> Said:
    code, said = _said(answer.lenient_json())
    return coded.said(deed, code, said, kind_of(code, said))


def _is_error(answer: Answer) -> bool:
    """Whether it is an error under HTTP 200: a code, and no task."""
    body = answer.lenient_json()
    return isinstance(body, dict) and not body.get("output") and _said(body)[0] is not None


def _is_about_the_account(answer: Answer) -> bool:
    return kind_of(*_said(answer.lenient_json())) in {AuthError, QuotaExhaustedError}


def _output(answer: Answer) -> dict[str, Any]:
    output = answer.json().get("output")
    if not isinstance(output, dict):
        raise ProtocolError("DashScope's answer has no output.")
    return output


def _image(image: ImageBytes) -> str:
    return data_uri(image, max_bytes=MAX_IMAGE_BYTES, label="DashScope")


def _path(operation: Operation) -> str:
    return f"tasks/{quoted_id(operation)}"
