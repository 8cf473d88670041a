"""
Acme's API, as `acme`.

    POST /clips        {"model", "text", "length", "shape", "lines", …} -> {"clip", "state"}
    GET  /clips/{id}   -> {"state": waiting | working | ready | broken, "done", "file", "why"}
    GET  /clips?most=1&after={id} -> {"clips": [{"clip", "state", …, "text", "length", "made"}],
                          "more"}, the newest first and for nothing
"""

from base64 import b64encode
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import orjson

from acme_video.vendor import INTERFACE
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    GenerationFailedError,
    ModelRetiredError,
    OperationLostError,
    ProtocolError,
    ProviderError,
    QuotaExhaustedError,
    ResultExpiredError,
    SubmitUnknownError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers.answer import (
    Answer,
    Deed,
    by_status,
    is_storable_id,
    moved,
    number,
    private_texts,
    scrubbed,
    wait_hint,
    word,
)
from vidgen.providers.http import ProviderHttp, joined, same_origin
from vidgen.providers.listing import Reading
from vidgen.providers.protocol import (
    Asset,
    Credential,
    Failed,
    Listing,
    Overview,
    Progress,
    ResultStream,
    Running,
    Submission,
    Submitted,
    Succeeded,
)
from vidgen.providers.registry import WORTH_A_PAGE, Surroundings

PAGE_LENGTH = 100
MAX_PAGES = 50
KINDS: dict[str, type[ProviderError]] = {
    "bad_key": AuthError,
    "no_money": QuotaExhaustedError,
    "not_allowed": ContentBlockedError,
    "no_such_model": ModelRetiredError,
}


def build(surroundings: Surroundings) -> "AcmeProvider":
    return AcmeProvider(surroundings.address(INTERFACE), surroundings.http)


class AcmeProvider:
    """Videos by Acme at *base_url*."""

    name = "acme"
    charges_failures = False

    def __init__(self, base_url: str, http: ProviderHttp) -> None:
        self._base_url = base_url
        self._http = http

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        model = submission.request.model
        assert model is not None  # a submission has every default filled in
        answer = await self._http.exchange(
            "submit",
            "POST",
            f"{self._base_url}/clips",
            headers=headers(credential),
            json=orjson.dumps(body_of(submission)),
            not_after=submission.not_after,
        )
        if not answer.ok:
            raise refusal(answer, "submit", credential, private_texts(submission.request))
        try:
            return Submitted(operation=self._operation(answer.json(), model, credential))
        except ProtocolError as error:
            raise SubmitUnknownError(
                "Acme took the request, but its answer names no clip."
            ) from error

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        self._check_home(operation)
        url = f"{operation.endpoint}/clips/{quote(operation.id, safe='')}"
        answer = await self._http.exchange("poll", "GET", url, headers=headers(credential))
        if not answer.ok:
            raise refusal(answer, "poll", credential)
        return progress_of(answer.json())

    @asynccontextmanager
    async def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AsyncIterator[ResultStream]:
        self._check_home(operation)

        async def refused(answer: Answer) -> ProviderError:
            if answer.status in {404, 410}:
                return ResultExpiredError("Acme no longer has the file.")
            return refusal(answer, "download", credential)

        async with self._http.download(
            joined(operation.endpoint, asset.uri),
            home=self._base_url,
            credential=headers(credential),
            refusal=refused,
        ) as stream:
            yield stream

    async def cancel(self, operation: Operation, credential: Credential) -> bool:
        return False

    async def find_recent(
        self, submission: Submission, since: datetime, credential: Credential
    ) -> Listing:
        request = submission.request
        reading = Reading(
            fields={
                "prompt": request.prompt,
                "seconds": request.seconds,
                "model": request.model,
                "number": request.seed,
            },
            since=since,
            at_vendor=False,  # an empty list is no proof: it may be a gateway's
            operation_of=lambda clip: self._operation(clip, request.model or "", credential),
            exact=("number",),
        )
        after: str | None = None
        for _ in range(MAX_PAGES):
            answer, clips, more = await self._page(after, credential)
            page = {"data": [listed(clip) for clip in clips], "has_more": more}
            after = reading.take(page, answer.headers.get("date"), datetime.now(UTC))
            if after is None:
                break
        return reading.listing()  # not trusted if there were more pages

    async def look_through(
        self, wanted: Sequence[Operation], credential: Credential, pages: int
    ) -> Overview:
        missing = {each.id for each in wanted if same_origin(each.endpoint, self._base_url)}
        found: dict[str, Progress] = {}
        after: str | None = None
        asked = 0
        while asked < pages:
            _, clips, more = await self._page(after, credential)
            asked += 1
            after = None
            for clip in clips:
                with suppress(ProtocolError):  # one that nobody can follow is nobody's
                    after = id_of(clip)
                    if after in missing:
                        found[after] = progress_of(clip)
                        missing.discard(after)
            if not more or after is None or len(missing) < WORTH_A_PAGE:
                break
        return Overview(found=found, pages=asked)

    async def accepts(self, model: str, credential: Credential) -> bool:
        answer = await self._http.exchange(
            "list", "GET", f"{self._base_url}/clips?most=1", headers=headers(credential)
        )
        if not answer.ok:
            raise refusal(answer, "list", credential)
        return True

    async def aclose(self) -> None:
        """The connections are not ours."""

    async def _page(
        self, after: str | None, credential: Credential
    ) -> tuple[Answer, list[dict[str, Any]], bool]:
        """A page of the list as it came, its clips, and whether there are more."""
        url = f"{self._base_url}/clips?most={PAGE_LENGTH}"
        if after is not None:
            url += f"&after={quote(after, safe='')}"
        answer = await self._http.exchange("list", "GET", url, headers=headers(credential))
        if not answer.ok:
            raise refusal(answer, "list", credential)
        told = answer.json()
        clips, more = told.get("clips"), told.get("more")
        if not isinstance(clips, list) or not isinstance(more, bool):
            raise ProtocolError("Acme's list has no clips, or does not say whether it goes on.")
        if not all(isinstance(clip, dict) for clip in clips):
            raise ProtocolError("Acme's list has something in it that is no clip.")
        return answer, clips, more

    def _operation(self, clip: Mapping[str, Any], model: str, credential: Credential) -> Operation:
        return Operation(
            provider=self.name,
            id=id_of(clip),
            endpoint=self._base_url,
            model=model,
            credential_id=credential.id,
        )

    def _check_home(self, operation: Operation) -> None:
        if not same_origin(operation.endpoint, self._base_url):
            raise moved(operation, "ACME_BASE_URL")


def body_of(submission: Submission) -> dict[str, JsonValue]:
    request = submission.request
    body: dict[str, JsonValue] = {
        "model": request.model,
        "text": request.prompt,
        "length": request.seconds,
        "shape": request.aspect_ratio,
        "lines": request.resolution,
    }
    if request.seed is not None:
        body["number"] = request.seed
    for image in submission.images:
        body["start"] = b64encode(image.data).decode()
    return body


def id_of(clip: Mapping[str, Any]) -> str:
    found = clip.get("clip")
    if not isinstance(found, str) or not is_storable_id(found):
        raise ProtocolError("Acme's answer names no clip.")
    return found


def listed(clip: dict[str, Any]) -> dict[str, Any]:
    """A clip of the list in the words that `Reading` compares."""
    words = {"prompt": "text", "seconds": "length", "created_at": "made"}
    return {**clip, **{ours: clip.get(theirs) for ours, theirs in words.items()}}


def progress_of(clip: dict[str, Any]) -> Progress:
    match clip.get("state"):
        case "ready" if isinstance(clip.get("file"), str):
            return Succeeded(assets=(Asset(variant="video", uri=clip["file"]),))
        case "broken":
            blocked = clip.get("why") == "not_allowed"
            kind = ContentBlockedError if blocked else GenerationFailedError
            return Failed(error=kind("Acme could not make the video."))
        case str():
            done = number(clip.get("done"))
            return Running(percent=None if done is None else min(100, max(0, round(done))))
        case _:
            raise ProtocolError("Acme's answer about the clip has no state.")


def refusal(
    answer: Answer, deed: Deed, credential: Credential, private: tuple[str, ...] = ()
) -> ProviderError:
    found = answer.lenient_json()
    told = found if isinstance(found, dict) else {}
    code = word(told.get("why"), secret=credential.secret)
    said = scrubbed(told.get("words"), secret=credential.secret, private=private)
    sentence = f"Acme refused the {deed} ({answer.status} {code})"
    sentence += f": {said}" if deed == "submit" else "."
    kind = KINDS.get(code or "")
    if kind is ModelRetiredError and deed != "submit":
        kind = OperationLostError
    if kind is None:
        return by_status(answer, deed, sentence, code=code, wait_s=wait_hint(answer.headers))
    return kind(sentence, provider_code=code, http_status=answer.status)


def headers(credential: Credential) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential.secret}"} if credential.secret else {}
