"""
Acme's API, as `acme`.

    POST /clips        {"model", "text", "length", "shape", "lines", …} -> {"clip", "state"}
    GET  /clips/{id}   -> {"state": waiting | working | ready | broken, "done", "file", "why"}
    GET  /clips?most=1 -> {"clips"}, for nothing
"""

from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
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
            clip = answer.json().get("clip")
        except ProtocolError:
            clip = None
        if not isinstance(clip, str) or not is_storable_id(clip):
            raise SubmitUnknownError("Acme took the request, but its answer names no clip.")
        return Submitted(
            operation=Operation(
                provider=self.name,
                id=clip,
                endpoint=self._base_url,
                model=model,
                credential_id=credential.id,
            )
        )

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

    async def accepts(self, model: str, credential: Credential) -> bool:
        answer = await self._http.exchange(
            "list", "GET", f"{self._base_url}/clips?most=1", headers=headers(credential)
        )
        if not answer.ok:
            raise refusal(answer, "list", credential)
        return True

    async def aclose(self) -> None:
        """The connections are not ours."""

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
