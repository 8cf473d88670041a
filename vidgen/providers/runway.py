"""
Runway's API, as `runway`: Gen-4.5, Gen-4 Turbo, and the models of others that it resells.

    POST /v1/text_to_video, /v1/image_to_video -> {id}      each request with X-Runway-Version
    GET  /v1/tasks/{id}      DELETE /v1/tasks/{id}          GET /v1/organization

From PyPI runwayml 5.24.0 (made from Runway's own OpenAPI file): addresses, fields, the six words of
a task's status, its `cost` in credits (0 if refunded in full), addresses of results that end within
24 to 48 hours while a fresh look gives fresh ones, and that a deleted task cannot be looked at any
more. From docs.dev.runwayml.com: a credit is 0.01 USD; a task that is THROTTLED is still queued;
`SAFETY.*` is moderation, never to be tried again, and what it blocked at the input stays charged;
`ASSET.INVALID` is the input's fault; `INTERNAL.BAD_OUTPUT.*`, `INTERNAL` and `THIRD_PARTY.*` are
failures of the generation. 429 is also the day's limit, which frees itself bit by bit.

Reported by several who use it, and not in the documentation: an account without credits is refused
with 400 and a sentence, and `INPUT_PREPROCESSING.SAFETY.THIRD_PARTY` and
`THIRD_PARTY.INPUT_VALIDATION` exist. Not verified: whether 429 carries `retry-after`, and what the
host of results answers once an address has ended. There is no list of tasks, so a lost receipt
stays unknown.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

from vidgen.catalog import runway
from vidgen.errors import (
    GenerationFailedError,
    ProtocolError,
    ProviderError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers.answer import Answer, Deed, number, word
from vidgen.providers.api import Api, quoted_id
from vidgen.providers.http import ProviderHttp
from vidgen.providers.plain import (
    Said,
    Vendor,
    bearer,
    blocked,
    broken,
    data_uri,
    filled,
    kind_by_words,
    only_roles,
    rejected,
    result_address,
    versioned,
    video_at,
)
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

API_VERSION = "2024-11-06"
MICROS_PER_CREDIT = 10_000
MAX_CREDITS = 100_000  # of one video: more is a mistake or a joke
MAX_DATA_URI_BYTES = 5 * 1024 * 1024

_POSITIONS = {"first_frame": "first", "last_frame": "last"}


def build(surroundings: Surroundings) -> "RunwayProvider":
    """The provider as the settings want it."""
    (interface,) = runway.VENDOR.interfaces
    return RunwayProvider(versioned(surroundings.address(interface)), surroundings.http)


class RunwayProvider:
    """Videos by Runway's API at *base_url*, e.g. `https://api.dev.runwayml.com/v1`."""

    name = "runway"
    charges_failures = False  # each task says what it cost

    def __init__(self, base_url: str, http: ProviderHttp) -> None:
        """Remember where; connections are *http*'s."""
        vendor = Vendor(label="Runway", base_url=base_url.rstrip("/"), variable="RUNWAYML_BASE_URL")
        self._api = Api(provider=self.name, vendor=vendor, http=http, said=_said, headers=_headers)

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        only_roles(submission, tuple(_POSITIONS), "Runway")
        deed = "image_to_video" if submission.images else "text_to_video"
        answer = await self._api.submit(deed, build_body, submission, credential)
        return Submitted(operation=self._api.receipt(answer, submission, credential))

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once; see `Provider.poll`."""
        url = self._api.at(operation, _path(operation))
        answer = await self._api.ask("poll", "GET", url, credential)
        return parse_task(answer.json())

    def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        return self._api.open_result(operation, asset, credential)

    async def cancel(self, operation: Operation, credential: Credential) -> bool | None:
        """
        Cancel the task, which also deletes it; None if there is none.

        Credits come back only for one that had not begun, and Runway does not say which it was: so
        what a cancelled video cost stays unknown.
        """
        url = self._api.at(operation, _path(operation))
        answer = await self._api.exchange("cancel", "DELETE", url, credential)
        return self._api.is_stopped(answer, credential, too_late=())

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether Runway takes *credential*, by asking for its balance; see `Provider.accepts`."""
        return await self._api.accepts("organization", credential)

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""


def build_body(submission: Submission) -> dict[str, JsonValue]:
    """The body of a submit; Runway writes pixels as `1280:720`, and frames by their position."""
    request = submission.request
    images: list[JsonValue] = [
        {
            "uri": data_uri(image, max_bytes=MAX_DATA_URI_BYTES, label="Runway"),
            "position": _POSITIONS[image.role],
        }
        for image in submission.images
    ]
    ratio = request.size.replace("x", ":") if request.size is not None else request.aspect_ratio
    body = filled(
        {
            "model": request.model,
            "promptText": request.prompt,
            "promptImage": images or None,
            "duration": request.seconds,
            "ratio": ratio,
            # Not of the models that the catalog knows: only others get this far with it.
            "resolution": request.resolution,
            "audio": request.audio,
            "negativePrompt": request.negative_prompt,
            "seed": request.seed,
        }
    )
    return body | dict(request.extra)


def parse_task(task: Mapping[str, Any]) -> Progress:
    """Turn a task into progress; only `status` is expected to be there."""
    if "status" not in task:
        raise ProtocolError("Runway's answer about the task has no status.")
    credits_used = _credits(task.get("cost"))
    cost = None if credits_used is None else credits_used * MICROS_PER_CREDIT
    match str(task["status"]).upper():
        case "SUCCEEDED":
            return Succeeded(
                assets=(_video(task.get("output")),),
                cost_micros=cost,
            )
        case "FAILED":
            error = _verdict(word(task.get("failureCode")))
            return Failed(error=error, charged=cost != 0, cost_micros=cost)
        case "CANCELLED" | "CANCELED":
            gone = GenerationFailedError("The task was cancelled or deleted at Runway.")
            return Failed(error=gone, charged=cost != 0, cost_micros=cost)
        case _:  # PENDING, THROTTLED, RUNNING, and what is not known yet
            share = number(task.get("progress"))
            percent = None if share is None else int(min(1.0, max(0.0, share)) * 100)
            return Running(percent=percent)


def _said(answer: Answer, deed: Deed) -> Said:
    """What a refusal says, and about which field."""
    body = answer.lenient_json()
    if not isinstance(body, dict):
        return Said()
    error, issues = body.get("error"), body.get("issues")
    if isinstance(error, dict):
        error = error.get("message")
    texts = [error]
    for issue in issues if isinstance(issues, list) else ():
        if isinstance(issue, dict):
            path = issue.get("path")
            places = (
                [each for each in path if isinstance(each, str)] if isinstance(path, list) else []
            )
            texts += [".".join(places), issue.get("message")]
    words = ": ".join(text for text in texts if isinstance(text, str) and text)
    return Said(words=words, kind=kind_by_words(words, answer.status, deed))


def _verdict(code: str | None) -> ProviderError:
    """How it ended, in our words: Runway's own are no sentence for users, as it says itself."""
    parts = (code or "").split(".")
    if "SAFETY" in parts:
        return blocked("Runway", code)
    if parts[0] == "ASSET" or parts[-1] == "INPUT_VALIDATION":
        return rejected("Runway", code)
    return broken("Runway", code)


def _video(output: object) -> Asset:
    found = output[0] if isinstance(output, list) and output else None
    return video_at(result_address(found, "Runway"))


def _credits(cost: object) -> int | None:
    """What the task cost in credits; None unless it is a sane number of them."""
    found = number(cost.get("credits")) if isinstance(cost, dict) else None
    return None if found is None or not 0 <= found <= MAX_CREDITS else round(found)


def _headers(credential: Credential) -> dict[str, str]:
    return {**bearer(credential), "X-Runway-Version": API_VERSION}


def _path(operation: Operation) -> str:
    return f"tasks/{quoted_id(operation)}"
