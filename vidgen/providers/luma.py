"""
Luma's Dream Machine API, as `luma`: Ray 2 and Ray 2 Flash.

    POST /generations/video -> a generation      GET, DELETE /generations/{id}
    GET  /generations?limit&offset               GET /credits

From PyPI lumaai 1.21.0 (made from Luma's OpenAPI file): addresses, fields, the four words of a
state, `assets.video`, and that a listed generation tells its request. From lumalabs/lumaai-api:
errors are `{"detail"}`, a create answers 201. From docs.lumalabs.ai: the balance is in US cents,
and a generation that fails is refunded in full.

Reported by several who use it: `Insufficient credits` as the detail of a refusal, and
"prompt not allowed because advanced moderation failed" as the reason of a failure. Not verified:
the status of these refusals and hints when to come back; until when an address of a video is good
(a fresh look may give a fresh one); whether DELETE stops a generation that runs, so nobody can tell
after one; the order of the list and whether it shows a generation at once, so it proves no absence
unless it shows others with their times. Luma takes images by a public address only, which vidgen
does not have: `extra` may carry `keyframes` with one.

Luma sells a newer interface beside this one (agents.lumalabs.ai, Ray 3.2), with other addresses,
keys and prices, and calls no date at which this one ends.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

from vidgen.catalog import luma
from vidgen.errors import (
    InputRejectedError,
    ProtocolError,
    ProviderError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers.answer import Answer, Deed, word
from vidgen.providers.api import Api, quoted_id
from vidgen.providers.http import ProviderHttp
from vidgen.providers.listing import Reading
from vidgen.providers.plain import (
    Said,
    Vendor,
    blocked,
    broken,
    filled,
    kind_by_words,
    result_address,
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

PAGE_LENGTH = 100
OVERLAP = 10  # of two pages: whatever is deleted meanwhile moves the rest
MAX_PAGES = 50
EXACT = ("aspect_ratio", "resolution")  # a list repeats them as they were sent


def build(surroundings: Surroundings) -> "LumaProvider":
    """The provider as the settings want it."""
    (interface,) = luma.VENDOR.interfaces
    return LumaProvider(surroundings.address(interface), surroundings.http)


class LumaProvider:
    """Videos by Luma's API at *base_url*, e.g. `https://api.lumalabs.ai/dream-machine/v1`."""

    name = "luma"
    charges_failures = False

    def __init__(self, base_url: str, http: ProviderHttp) -> None:
        """Remember where; connections are *http*'s."""
        vendor = Vendor(label="Luma", base_url=base_url.rstrip("/"), variable="LUMAAI_BASE_URL")
        self._api = Api(provider=self.name, vendor=vendor, http=http, said=_said)

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        if submission.images:
            raise InputRejectedError(
                "Luma takes images by a public address only: name it in extra.keyframes."
            )
        answer = await self._api.submit("generations/video", build_body, submission, credential)
        return Submitted(operation=self._api.receipt(answer, submission, credential))

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once; see `Provider.poll`."""
        url = self._api.at(operation, _path(operation))
        answer = await self._api.ask("poll", "GET", url, credential)
        return parse_generation(answer.json())

    def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        return self._api.open_result(operation, asset, credential)

    async def cancel(self, operation: Operation, credential: Credential) -> bool | None:
        """Delete the generation: None, for Luma does not say whether that stops it as well."""
        url = self._api.at(operation, _path(operation))
        answer = await self._api.exchange("cancel", "DELETE", url, credential)
        return False if self._api.is_stopped(answer, credential) is False else None

    async def find_recent(
        self, submission: Submission, since: datetime, credential: Credential
    ) -> Listing:
        """
        What the account's list shows since *since*, our time, that may come from *submission*.

        Raises:
            SubmitUnknownError: This server cannot list, so nothing is proven.
            ProtocolError: An answer that is no list.
        """
        request, given = submission.request, build_body(submission)
        reading = Reading(
            fields={
                "prompt": request.prompt,
                "seconds": request.seconds,
                "model": request.model,
                **{name: given.get(name) for name in EXACT},
            },
            since=since,
            at_vendor=False,  # neither order nor completeness is documented
            operation_of=lambda video: self._api.operation(video, submission, credential),
            exact=EXACT,
        )
        for number in range(MAX_PAGES):
            query = f"limit={PAGE_LENGTH}&offset={number * (PAGE_LENGTH - OVERLAP)}"
            url = self._api.url(f"generations?{query}")
            answer = await self._api.page(url, credential, of="generations")
            page = answer.json()
            generations = page.get("generations")
            if not isinstance(generations, list):
                raise ProtocolError("Luma's list has no generations.")
            told = {"data": [_listed(each) for each in generations], **_more(page, generations)}
            if reading.take(told, answer.headers.get("date"), datetime.now(UTC)) is None:
                break
        return reading.listing()  # not trusted if there were more pages

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether Luma takes *credential*, by asking for its balance; see `Provider.accepts`."""
        return await self._api.accepts("credits", credential)

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""


def build_body(submission: Submission) -> dict[str, JsonValue]:
    """The body of a submit; Luma writes seconds as `5s`."""
    request = submission.request
    body = filled(
        {
            "generation_type": "video",
            "model": request.model,
            "prompt": request.prompt,
            "aspect_ratio": request.aspect_ratio,
            "resolution": request.resolution,
            "duration": None if request.seconds is None else f"{request.seconds}s",
            # Not of the models that the catalog knows: only others get this far with them.
            "size": request.size,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            "audio": request.audio,
        }
    )
    return body | dict(request.extra)


def parse_generation(generation: Mapping[str, Any]) -> Progress:
    """Turn a generation into progress; only `state` is expected to be there."""
    if "state" not in generation:
        raise ProtocolError("Luma's answer about the generation has no state.")
    match str(generation["state"]).lower():
        case "completed":
            assets = generation.get("assets")
            video = assets.get("video") if isinstance(assets, dict) else None
            return Succeeded(assets=(video_at(result_address(video, "Luma")),))
        case "failed":
            return Failed(error=_verdict(generation))
        case _:  # queued, dreaming, and what is not known yet
            return Running()


def _verdict(generation: Mapping[str, Any]) -> ProviderError:
    """How it ended, in our words: Luma's may repeat the prompt, which a look lacks."""
    reason = generation.get("failure_reason")
    code = word(generation.get("failure_code"))  # of Luma's newer interface
    lower = f"{reason} {code}".lower()
    is_blocked = "moderat" in lower or "content policy" in lower
    return blocked("Luma", code) if is_blocked else broken("Luma", code)


def _said(answer: Answer, deed: Deed) -> Said:
    """What a refusal says: a text, or FastAPI's list of what is wrong with which field."""
    body = answer.lenient_json()
    detail = body.get("detail") if isinstance(body, dict) else None
    if isinstance(detail, list):
        texts = (item.get("msg") for item in detail if isinstance(item, dict))
        detail = "; ".join(text for text in texts if isinstance(text, str))
    words = detail if isinstance(detail, str) else ""
    return Said(words=words, kind=kind_by_words(words, answer.status, deed))


def _listed(generation: object) -> object:
    """A listed generation in the words of `Reading`."""
    if not isinstance(generation, dict):
        return generation
    given = generation.get("request")
    given = given if isinstance(given, dict) else {}
    return {
        "id": generation.get("id"),
        "created_at": generation.get("created_at"),
        "prompt": given.get("prompt"),
        "seconds": given.get("duration"),
        "model": generation.get("model") or given.get("model"),
        **{name: given.get(name) for name in EXACT},
    }


def _more(page: Mapping[str, Any], generations: list[Any]) -> dict[str, Any]:
    """Whether the list goes on, if that is told or plain to see."""
    if isinstance(page.get("has_more"), bool):
        return {"has_more": page["has_more"]}
    return {} if generations else {"has_more": False}


def _path(operation: Operation) -> str:
    return f"generations/{quoted_id(operation)}"
