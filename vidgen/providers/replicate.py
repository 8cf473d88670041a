"""
Replicate's API, as `replicate`: any video model there, by `owner/name`, `owner/name:version`, or
the 64 digits of a version alone.

    POST /v1/models/{owner}/{name}/predictions {input}      official models
    POST /v1/predictions {version, input}                   everything else, with its version
    GET  /v1/predictions/{id}      POST /v1/predictions/{id}/cancel      GET /v1/predictions
    GET  /v1/account

From PyPI replicate 1.0.7 and replicate/replicate-python-beta (made from Replicate's OpenAPI file):
addresses, fields, `metrics`, problem details (RFC 7807) as errors, pages of the list by `next`, and
that a listed prediction tells its input. From replicate.com/docs: the six words of a status, with
`aborted` for one whose deadline passed before it ran; 600 submits and 3,000 other requests a
minute, and the sentence of a 429 that tells the seconds; that inputs, outputs and logs of a
prediction made by the API are removed after an hour (`data_removed`), which is the only end that
results have. So within an hour the list proves what was started, and after it nothing.

Reported by several who use it: 402 for an account without credit, and
`metrics.video_output_duration_seconds`, by which official video models are billed. No answer tells
an amount of money: the catalog's price and that length are what a video cost. Official models are
billed by what comes out, all others by the time they ran: there a failure counts as charged.
Moderation has no code of its own: models write a sentence, of which "sensitive" and (E005) are what
Replicate's own errors say. Not verified: that the list shows a prediction at once.

A model takes what its own schema names, and ignores the rest in silence. The catalog knows a few
models; to all others the fields go by their most usual names, and `extra` can say otherwise.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from vidgen.catalog import replicate
from vidgen.errors import (
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    ProtocolError,
    ProviderError,
    ResultExpiredError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers.answer import Answer, Deed, bounded_wait, moment, number
from vidgen.providers.api import Api, quoted_id
from vidgen.providers.http import ProviderHttp, same_origin
from vidgen.providers.listing import Reading
from vidgen.providers.plain import (
    Said,
    Vendor,
    data_uri,
    filled,
    kind_by_words,
    only_roles,
    result_address,
    versioned,
    video_at,
)
from vidgen.providers.protocol import (
    Asset,
    Credential,
    Failed,
    Listing,
    Progress,
    ResultStream,
    Running,
    Submission,
    Submitted,
    Succeeded,
)
from vidgen.providers.registry import Surroundings

KEPT = timedelta(hours=1)
MAX_PAGES = 50
EXACT = ("aspect_ratio", "resolution", "seed")  # a list repeats them as they were sent
MAX_SECONDS = 3600  # of a clip: more is a mistake
# Replicate advises to send up to 1 MB in this way. That it takes more is not verified; a refusal
# costs nothing, and vidgen has no public address for a file.
MAX_DATA_URI_BYTES = 10 * 1024 * 1024

_IMAGES = {"first_frame": "image", "last_frame": "last_frame_image"}
_VERSION = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_RESETS = re.compile(r"resets in ~?(\d{1,5}(?:\.\d{1,3})?)s")
_MODERATION = ("e005", "sensitive", "nsfw", "moderation", "safety", "content policy", "flagged")


def build(surroundings: Surroundings) -> "ReplicateProvider":
    """The provider as the settings want it."""
    (interface,) = replicate.VENDOR.interfaces
    return ReplicateProvider(versioned(surroundings.address(interface)), surroundings.http)


class ReplicateProvider:
    """Videos by Replicate's API at *base_url*, e.g. `https://api.replicate.com/v1`."""

    name = "replicate"
    charges_failures = False  # it depends on the model, so each verdict says it

    def __init__(self, base_url: str, http: ProviderHttp) -> None:
        """Remember where; connections are *http*'s."""
        vendor = Vendor(
            label="Replicate", base_url=base_url.rstrip("/"), variable="REPLICATE_BASE_URL"
        )
        self._api = Api(provider=self.name, vendor=vendor, http=http, said=_said)

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        only_roles(submission, tuple(_IMAGES), "Replicate")
        path = _path_of(submission.request.model or "")
        answer = await self._api.submit(path, build_body, submission, credential)
        operation = self._api.receipt(answer, submission, credential)
        prediction = answer.json()
        progress = Running() if "status" not in prediction else _safely(prediction, operation)
        return Submitted(operation=operation, progress=progress)

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once; see `Provider.poll`."""
        url = self._api.at(operation, _path(operation))
        answer = await self._api.ask("poll", "GET", url, credential)
        return parse_prediction(answer.json(), operation.model)

    def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        return self._api.open_result(operation, asset, credential)

    async def cancel(self, operation: Operation, credential: Credential) -> bool | None:
        """Cancel the prediction; False if it had ended, None if there is none."""
        url = self._api.at(operation, f"{_path(operation)}/cancel")
        answer = await self._api.exchange("cancel", "POST", url, credential)
        is_stopped = self._api.is_stopped(answer, credential, too_late={400, 405, 409, 422})
        if not is_stopped:
            return is_stopped
        body = answer.lenient_json()
        status = body.get("status") if isinstance(body, dict) else None
        return status not in {"succeeded", "failed"}

    async def find_recent(
        self, submission: Submission, since: datetime, credential: Credential
    ) -> Listing:
        """
        What the account's list shows since *since*, our time, that may come from *submission*.

        Raises:
            ProtocolError: An answer that is no list.
        """
        request, home = submission.request, self._api.vendor.base_url
        reading = Reading(
            fields=_comparable(_input(submission), request.model),
            since=since,
            at_vendor=same_origin(home, replicate.ORIGIN),
            operation_of=lambda video: self._api.operation(video, submission, credential),
            exact=EXACT,
        )
        version = _version_of(request.model or "")
        url = self._api.url("predictions")
        for _ in range(MAX_PAGES):
            answer = await self._api.page(url, credential, of="predictions")
            page = answer.json()
            predictions, following = page.get("results"), page.get("next")
            if not isinstance(predictions, list):
                raise ProtocolError("Replicate's list of predictions has no results.")
            told = {
                "data": [_listed(each, by_version=version is not None) for each in predictions],
                "has_more": following is not None,
            }
            goes_on = reading.take(told, answer.headers.get("date"), datetime.now(UTC))
            if goes_on is None:
                break
            if not isinstance(following, str) or not same_origin(following, home):
                raise ProtocolError("Replicate's list goes on at another server.")
            url = following
        return reading.listing()  # not trusted if there were more pages

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether Replicate takes *credential*; see `Provider.accepts`."""
        return await self._api.accepts("account", credential)

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""


def _path_of(model: str) -> str:
    """
    Where a submit of *model* goes.

    Raises:
        InputRejectedError: It has no name that Replicate could know.
    """
    if _version_of(model) is not None:
        return "predictions"
    if not _NAME.fullmatch(model):
        raise InputRejectedError(
            "A model at Replicate is owner/name, owner/name:version, or the 64 digits of a version."
        )
    owner, _, name = model.partition("/")
    return f"models/{quote(owner)}/{quote(name)}/predictions"


def build_body(submission: Submission) -> dict[str, JsonValue]:
    """The body of a submit, with the version if the model names one."""
    return filled(
        {"version": _version_of(submission.request.model or ""), "input": _input(submission)}
    )


def _input(submission: Submission) -> dict[str, JsonValue]:
    request = submission.request
    fields = filled(
        {
            "prompt": request.prompt,
            "duration": request.seconds,
            "aspect_ratio": request.aspect_ratio,
            "resolution": request.resolution,
            "size": request.size.replace("x", "*") if request.size is not None else None,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            "generate_audio": request.audio,
        }
    )
    for image in submission.images:
        fields[_IMAGES[image.role]] = data_uri(
            image, max_bytes=MAX_DATA_URI_BYTES, label="Replicate"
        )
    return fields | dict(request.extra)


def parse_prediction(prediction: Mapping[str, Any], model: str) -> Progress:
    """Turn a prediction into progress; only `status` is expected to be there."""
    if "status" not in prediction:
        raise ProtocolError("Replicate's answer about the prediction has no status.")
    match str(prediction["status"]).lower():
        case "succeeded":
            return _succeeded(prediction, model)
        case "failed":
            error = _verdict(prediction.get("error"))
            return Failed(error=error, charged=_is_charged(prediction, model))
        case "canceled" | "cancelled" | "aborted":
            gone = GenerationFailedError("The prediction was cancelled at Replicate.")
            return Failed(error=gone, charged=_is_charged(prediction, model))
        case _:  # starting, processing, and what is not known yet
            return Running()


def _succeeded(prediction: Mapping[str, Any], model: str) -> Progress:
    output = prediction.get("output")
    first = output[0] if isinstance(output, list) and output else output
    if isinstance(first, dict):
        first = first.get("video") or first.get("url")
    if first is None and prediction.get("data_removed") is True:
        gone = ResultExpiredError("Replicate has removed the video, as it does after an hour.")
        return Failed(error=gone, charged=True, cost_micros=_cost(prediction, model))
    completed_at = moment(prediction.get("completed_at"))
    return Succeeded(
        assets=(video_at(result_address(first, "Replicate")),),
        expires_at=None if completed_at is None else completed_at + KEPT,
        cost_micros=_cost(prediction, model),
    )


def _safely(prediction: Mapping[str, Any], operation: Operation) -> Progress:
    """What the receipt says already; one that nobody can read loses no receipt."""
    try:
        return parse_prediction(prediction, operation.model)
    except ProtocolError:
        return Running()


def _verdict(error: object) -> ProviderError:
    """How it ended, in our words: a model's own may repeat the prompt, which a look lacks."""
    lower = error.lower() if isinstance(error, str) else ""
    if any(term in lower for term in _MODERATION):
        return ContentBlockedError(
            "The model's moderation blocked the video at Replicate; change the prompt or the image."
        )
    return GenerationFailedError("The generation failed at Replicate.")


def _said(answer: Answer, deed: Deed) -> Said:
    body = answer.lenient_json()
    problem = body if isinstance(body, dict) else {}
    texts = (problem.get("title"), problem.get("detail"))
    words = ": ".join(text for text in texts if isinstance(text, str))
    resets = _RESETS.search(words)
    return Said(
        words=words,
        kind=kind_by_words(words, answer.status, deed),
        wait_s=bounded_wait(float(resets[1])) if resets else None,
    )


def _is_charged(prediction: Mapping[str, Any], model: str) -> bool:
    """Whether there may be something to bill without a video: the time that the model ran."""
    if replicate.VENDOR.find(model) is not None:
        return False  # an official one: billed by what comes out
    metrics = prediction.get("metrics")
    ran_s = number(metrics.get("predict_time")) if isinstance(metrics, dict) else None
    return ran_s != 0 if ran_s is not None else prediction.get("started_at") is not None


def _cost(prediction: Mapping[str, Any], model: str) -> int | None:
    """The catalog's price of what came out; None if one of the two is not known."""
    metrics, given = prediction.get("metrics"), prediction.get("input")
    if not isinstance(metrics, dict) or not isinstance(given, dict):
        return None
    seconds = number(metrics.get("video_output_duration_seconds"))
    known = replicate.VENDOR.find(model)
    resolution = metrics.get("resolution_target") or given.get("resolution")
    if known is None or seconds is None or not 0 < seconds <= MAX_SECONDS:
        return None
    prices = known.micros_per_second()
    price = prices.get(resolution) if isinstance(resolution, str) else None
    return None if price is None else round(seconds * price)


def _version_of(model: str) -> str | None:
    """The version that *model* names, None if it names none."""
    version = model.rpartition(":")[2]
    return version if _VERSION.fullmatch(version) else None


def _comparable(given: Mapping[str, JsonValue], model: str | None) -> dict[str, JsonValue]:
    """A submit in the words of `Reading`; what other models call otherwise speaks for nothing."""
    return {
        "prompt": given.get("prompt"),
        "seconds": given.get("duration"),
        "model": _version_of(model or "") or model,
        **{name: given.get(name) for name in EXACT},
    }


def _listed(prediction: object, *, by_version: bool) -> object:
    """A listed prediction in the words of `Reading`; what was removed is not told."""
    if not isinstance(prediction, dict):
        return prediction
    given = prediction.get("input")
    given = given if isinstance(given, dict) else {}
    return {
        "id": prediction.get("id"),
        "created_at": prediction.get("created_at"),
        "prompt": given.get("prompt"),
        "seconds": given.get("duration"),
        "model": prediction.get("version" if by_version else "model"),
        **{name: given.get(name) for name in EXACT},
    }


def _path(operation: Operation) -> str:
    return f"predictions/{quoted_id(operation)}"
