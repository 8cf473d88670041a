"""
The OpenAI Videos protocol, as `sora`: OpenAI's own, and the many servers that speak it since.

OpenAI switched its own endpoint off on 2026-09-24; the protocol lives on in model servers and
gateways. So nothing but an id and a status is expected of an answer, errors come in four shapes,
and a status that nobody knows means that the video is still being made.

What a server says in words is quoted to the user from a refused submit only, without the prompt and
the key. A look has no prompt at hand to take out of it, so there the code speaks, in our sentence.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any, Literal
from urllib.parse import quote

import orjson
from aiohttp import FormData

from vidgen import catalog
from vidgen.catalog import sora
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    InvalidRequestError,
    ModelRetiredError,
    NotReadyError,
    OperationLostError,
    ProtocolError,
    ProviderError,
    QuotaExhaustedError,
    ResultExpiredError,
    ResultInvalidError,
    SubmitUnknownError,
)
from vidgen.image import recognise
from vidgen.job import JsonValue, Operation
from vidgen.providers.answer import (
    Answer,
    Deed,
    by_status,
    cleaned,
    is_storable_id,
    moment,
    moved,
    number,
    percent,
    poll_hint,
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
    Variant,
)
from vidgen.providers.registry import WORTH_A_PAGE, Surroundings

AuthStyle = Literal["bearer", "api-key"]

# How long after completion a refused download only means "not yet".
SETTLING = timedelta(minutes=2)
MAX_COST_USD = 1000  # of one video: more is a mistake or a joke
PAGE_LENGTH = 100
MAX_PAGES = 50

_SUCCEEDED = frozenset({"completed", "complete", "succeeded", "success", "done"})
_FAILED = frozenset({"failed", "failure", "error", "rejected"})
_ENDED = frozenset({"cancelled", "canceled", "deleted", "expired"})
_MONEY_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "project_usage_limit_exceeded",
        "billing_hard_limit_reached",
    }
)
_MODERATION_WORDS = ("moderation", "content_policy", "safety", "sensitive")
_NOT_READY_CODES = frozenset({"video_not_ready", "not_ready", "video_processing"})
_VARIANTS: tuple[Variant, ...] = ("video", "thumbnail", "spritesheet")
_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


def build(surroundings: Surroundings) -> "SoraProvider":
    """The provider as the settings want it."""
    (interface,) = sora.VENDOR.interfaces
    style = surroundings.endpoints.get("OPENAI_AUTH_STYLE")
    return SoraProvider(
        surroundings.address(interface),
        "api-key" if style == "api-key" else "bearer",
        surroundings.http,
    )


class SoraProvider:
    """Videos by the OpenAI protocol at *base_url*, e.g. `https://api.openai.com/v1`."""

    name = "sora"
    charges_failures = False

    def __init__(self, base_url: str, auth_style: AuthStyle, http: ProviderHttp) -> None:
        """Remember where; connections are *http*'s."""
        self._base_url = base_url.rstrip("/")
        self._auth_style = auth_style
        self._http = http
        self._wants_forms = False  # learnt from a server that refuses JSON

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        _check_first_frame(submission)
        answer = await self._post(submission, credential)
        if not answer.ok:
            private = private_texts(submission.request)
            raise refusal(answer, "submit", secret=credential.secret, private=private)
        try:
            video = answer.json()
            operation = self._operation(video, submission, credential)
        except ProtocolError as error:
            raise SubmitUnknownError(
                "The submit was accepted, but the answer names no video; it may be running.",
                http_status=answer.status,
                request_id=answer.request_id,
            ) from error
        return Submitted(operation=operation, progress=parse_video(video, answer.headers))

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once; see `Provider.poll`."""
        answer = await self._look(operation, credential)
        if not answer.ok:
            raise refusal(answer, "poll", secret=credential.secret)
        video = answer.json()
        if "status" not in video:
            raise ProtocolError("The provider's answer about the video has no status.")
        return parse_video(video, answer.headers)

    @asynccontextmanager
    async def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AsyncIterator[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        self._check_home(operation)
        if asset.uri in _VARIANTS:
            suffix = "" if asset.uri == "video" else f"?variant={asset.uri}"
            url = f"{self._address(operation)}/content{suffix}"
        else:
            url = joined(operation.endpoint, asset.uri)

        async def refused(answer: Answer) -> ProviderError:
            return await self._unavailable(answer, operation, credential)

        opened: AbstractAsyncContextManager[ResultStream] = self._http.download(
            url, home=self._base_url, credential=self._headers(credential), refusal=refused
        )
        async with opened as stream:
            is_image = (stream.content_type or "").startswith("image/")
            if asset.variant != "video" and not is_image:  # some servers ignore the variant
                raise ResultInvalidError(f"The provider sent no image as {asset.variant}.")
            yield stream

    async def cancel(self, operation: Operation, credential: Credential) -> bool | None:
        """
        Delete the video; False if the server does not do that (now), None if there is none.
        """
        self._check_home(operation)
        answer = await self._http.exchange(
            "cancel", "DELETE", self._address(operation), headers=self._headers(credential)
        )
        if answer.ok:
            return True
        if answer.status in {404, 410}:
            return None
        if answer.status in {400, 405, 409, 501}:
            return False
        raise refusal(answer, "cancel", secret=credential.secret)

    async def find_recent(
        self, submission: Submission, since: datetime, credential: Credential
    ) -> Listing:
        """
        What the server lists since *since*, our time, that may have come from *submission*.

        Raises:
            SubmitUnknownError: This server cannot list, so nothing is proven.
            ProtocolError: An answer that is no list.
        """
        reading = Reading(
            fields=build_fields(submission),
            since=since,
            at_vendor=same_origin(self._base_url, sora.ORIGIN),
            operation_of=lambda video: self._operation(video, submission, credential),
        )
        after: str | None = None
        for _ in range(MAX_PAGES):
            answer = await self._page(after, credential)
            after = reading.take(_videos(answer), answer.headers.get("date"), datetime.now(UTC))
            if after is None:
                break
        return reading.listing()  # not trusted if there were more pages

    async def look_through(
        self, wanted: Sequence[Operation], credential: Credential, pages: int
    ) -> Overview:
        """What the newest videos of the list say about *wanted*; see `ListsVideos`."""
        missing = {each.id for each in wanted if same_origin(each.endpoint, self._base_url)}
        found: dict[str, Progress] = {}
        after: str | None = None
        asked = 0
        while asked < pages:
            answer = await self._page(after, credential)
            asked += 1
            page = _videos(answer)
            after = None
            for video in page["data"]:
                if not isinstance(video, dict):
                    continue
                with suppress(ProtocolError):  # one that nobody can follow is nobody's
                    after = operation_id(video)
                    if after in missing and "status" in video:
                        found[after] = parse_video(video, answer.headers)
                        missing.discard(after)
            is_last = after is None or page.get("has_more") is not True
            if is_last or len(missing) < WORTH_A_PAGE:
                break
        return Overview(found=found, pages=asked)

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether the server takes *credential*; see `Provider.accepts`."""
        # First what is part of the protocol: a key may be made for videos only.
        for path in ("videos?limit=1", "models"):
            answer = await self._http.exchange(
                "list", "GET", f"{self._base_url}/{path}", headers=self._headers(credential)
            )
            if answer.ok:
                return True
            if answer.status not in {404, 405, 410, 501}:
                raise refusal(answer, "list", secret=credential.secret)
        return False

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""

    async def _post(self, submission: Submission, credential: Credential) -> Answer:
        fields = build_fields(submission)
        headers = self._headers(credential)
        url = f"{self._base_url}/videos"
        if not submission.images and not self._wants_forms:
            body = orjson.dumps(fields)
            answer = await self._http.exchange(
                "submit", "POST", url, headers=headers, json=body, not_after=submission.not_after
            )
            if not _wants_form(answer):
                return answer
        form = _form(fields, submission)
        answer = await self._http.exchange(
            "submit", "POST", url, headers=headers, form=form, not_after=submission.not_after
        )
        self._wants_forms = self._wants_forms or (answer.ok and not submission.images)
        return answer

    async def _look(self, operation: Operation, credential: Credential) -> Answer:
        self._check_home(operation)
        url = self._address(operation)
        polling_url = operation.extra.get("polling_url")
        if isinstance(polling_url, str) and same_origin(polling_url, self._base_url):
            url = polling_url
        return await self._http.exchange("poll", "GET", url, headers=self._headers(credential))

    async def _unavailable(
        self, answer: Answer, operation: Operation, credential: Credential
    ) -> ProviderError:
        """Tell "not yet" from "gone": by the code, or else by when the video was completed."""
        if answer.status not in {202, 204, 400, 404, 409, 410, 425}:
            return refusal(answer, "download", secret=credential.secret)
        code, _ = _error_of(answer.lenient_json())
        not_yet = NotReadyError(
            "The provider calls the video finished but does not hand it out yet.",
            retry_after_s=wait_hint(answer.headers),
            http_status=answer.status,
        )
        if code in _NOT_READY_CODES or answer.status in {202, 204, 425}:
            return not_yet
        gone = ResultExpiredError(
            f"The provider no longer has the video ({answer.status}).", http_status=answer.status
        )
        if answer.status == 410:
            return gone
        look = await self._look(operation, credential)
        if look.status in {404, 410}:
            return gone
        if not look.ok:
            return refusal(look, "poll", secret=credential.secret)
        return gone if _is_settled(look.json(), datetime.now(UTC)) else not_yet

    async def _page(self, after: str | None, credential: Credential) -> Answer:
        query = f"?limit={PAGE_LENGTH}&order=desc" + (f"&after={quote(after)}" if after else "")
        answer = await self._http.exchange(
            "list", "GET", f"{self._base_url}/videos{query}", headers=self._headers(credential)
        )
        if answer.status in {404, 405, 501}:
            raise SubmitUnknownError("This server does not list its videos; nobody can tell.")
        if not answer.ok:
            raise refusal(answer, "list", secret=credential.secret)
        return answer

    def _operation(
        self, video: Mapping[str, Any], submission: Submission, credential: Credential
    ) -> Operation:
        found = operation_id(video)
        model = submission.request.model
        assert model is not None  # a submission has every default filled in
        extra: dict[str, JsonValue] = {}
        polling_url = video.get("polling_url")
        # Only at home and without a query, which could carry a secret. A bad one loses no receipt.
        with suppress(ProtocolError):
            if isinstance(polling_url, str) and polling_url and "?" not in polling_url:
                address = joined(self._base_url, polling_url)
                if is_storable_id(address) and same_origin(address, self._base_url):
                    extra["polling_url"] = address
        return Operation(
            provider=self.name,
            id=found,
            endpoint=self._base_url,
            model=model,
            credential_id=credential.id,
            extra=extra,
        )

    def _address(self, operation: Operation) -> str:
        return f"{operation.endpoint}/videos/{quote(operation.id, safe='')}"

    def _headers(self, credential: Credential) -> dict[str, str]:
        if not credential.secret:  # a server of one's own may want no key
            return {}
        if self._auth_style == "api-key":
            return {"api-key": credential.secret}
        return {"Authorization": f"Bearer {credential.secret}"}

    def _check_home(self, operation: Operation) -> None:
        if not same_origin(operation.endpoint, self._base_url):
            raise moved(operation, "OPENAI_BASE_URL")


def operation_id(video: Mapping[str, Any]) -> str:
    """
    The id of a video object, fit for an address and for PostgreSQL.

    Raises:
        ProtocolError: There is none.
    """
    found = video.get("id") or video.get("task_id")
    text = "" if isinstance(found, bool) or not isinstance(found, str | int) else str(found)
    if not is_storable_id(text) or text in {".", ".."}:
        raise ProtocolError("The provider's answer has no usable id.")
    return text


def build_fields(submission: Submission) -> dict[str, JsonValue]:
    """The fields of `POST /videos` as JSON has them; seconds is a string in this protocol."""
    request = submission.request
    is_known = catalog.find("sora", request.model or "") is not None
    optional: dict[str, JsonValue] = {
        "seconds": None if request.seconds is None else str(request.seconds),
        "size": request.size,
        # Not OpenAI's: only models the catalog does not know get this far with them.
        "aspect_ratio": request.aspect_ratio,
        "resolution": request.resolution,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "generate_audio": None if is_known else request.audio,
    }
    fields: dict[str, JsonValue] = {"model": request.model, "prompt": request.prompt}
    fields.update((name, value) for name, value in optional.items() if value is not None)
    fields.update(request.extra)
    return fields


def parse_video(video: Mapping[str, Any], headers: Mapping[str, str]) -> Progress:
    """Turn a video object into progress; only `status` is expected to be there."""
    word = str(video.get("status") or "").lower()
    cost = _cost(video.get("usage"))
    if word in _SUCCEEDED:
        return Succeeded(
            assets=_assets(video), expires_at=moment(video.get("expires_at")), cost_micros=cost
        )
    if word in _FAILED or word in _ENDED:
        # Who cancelled or deleted it, and what it cost until then, nobody knows unless it is told.
        charged = word in _ENDED if cost is None else cost > 0
        return Failed(error=_verdict(word, video), charged=charged, cost_micros=cost)
    return Running(percent=percent(video.get("progress")), poll_after_s=poll_hint(headers))


def _videos(answer: Answer) -> dict[str, Any]:
    page = answer.json()
    if not isinstance(page.get("data"), list):
        raise ProtocolError("The provider's list of videos has no data.")
    return page


def refusal(
    answer: Answer, deed: Deed, *, secret: str = "", private: tuple[str, ...] = ()
) -> ProviderError:
    """
    Map an answer that is not 2xx to one class, by its code first and its status second.

    What the server says is quoted from a submit only, where the *private* texts are known.
    """
    found, message = _error_of(answer.lenient_json())
    code = word(found, secret=secret)
    said = scrubbed(message, secret=secret, private=private) if deed == "submit" else ""
    named = f" {code}" if code and code != str(answer.status) else ""
    sentence = f"The provider refused the {deed} ({answer.status}{named})"
    sentence = f"{sentence}: {said}" if said else f"{sentence}."
    if deed == "submit" and answer.status in {404, 410}:
        sentence += " The model is switched off or unknown there, or OPENAI_BASE_URL is wrong."
    kind = _kind_by_code(code or "", message.lower(), answer.status, deed)
    if kind is None:
        wait_s = wait_hint(answer.headers)
        return by_status(answer, deed, sentence, code=code, wait_s=wait_s)
    return kind(
        sentence, provider_code=code, request_id=answer.request_id, http_status=answer.status
    )


def _kind_by_code(code: str, lower: str, status: int, deed: Deed) -> type[ProviderError] | None:
    if code in _MONEY_CODES:
        return QuotaExhaustedError
    if code == "invalid_api_key":
        return AuthError
    if status in {400, 403, 422} and any(word in code for word in _MODERATION_WORDS):
        return ContentBlockedError
    is_gone = code == "model_not_found" or "no longer available" in lower
    if deed == "submit" and 400 <= status < 500 and is_gone:
        return ModelRetiredError
    return None


def _error_of(body: object) -> tuple[str | None, str]:
    """Code and message in any known shape: an object, a text, FastAPI's `detail`, `{code, msg}`."""
    if not isinstance(body, dict):
        return None, ""
    error = body.get("error") or body.get("detail") or body
    if isinstance(error, str):
        return word(body.get("code")), error
    if isinstance(error, list):  # FastAPI's list of what is wrong with which field
        texts = [str(item.get("msg")) for item in error if isinstance(item, dict)]
        return None, "; ".join(texts)
    if not isinstance(error, dict):
        return None, ""
    code, kind = word(error.get("code")), word(error.get("type"))
    if kind in _MONEY_CODES and code not in _MONEY_CODES:
        code = kind
    message = error.get("message") or error.get("msg") or ""
    return code or kind, message if isinstance(message, str) else ""


def _verdict(status: str, video: Mapping[str, Any]) -> ProviderError:
    """How it ended, in our words: the server's own may repeat the prompt, which a look lacks."""
    if status == "deleted":
        return OperationLostError("The video was deleted at the provider.")
    if status == "expired":
        return ResultExpiredError("The provider no longer keeps the video.")
    raw = video.get("error")
    code, message = _error_of({"error": raw} if raw else {})
    named = f" (code {code})" if code else ""
    if _is_moderation(code, message):
        return ContentBlockedError(
            f"The provider's moderation blocked the video{named}; change the prompt or the image.",
            provider_code=code,
        )
    if status in _ENDED:
        return GenerationFailedError(
            f"The video was cancelled at the provider{named}.", provider_code=code
        )
    sentence = f"The generation failed at the provider{named}"
    sentence += "." if code else ", which gives no code for it."
    return GenerationFailedError(sentence, provider_code=code)


def _is_moderation(code: str | None, message: str) -> bool:
    said = code.lower() if code else message.lower()
    return any(term in said for term in _MODERATION_WORDS)


def _assets(video: Mapping[str, Any]) -> tuple[Asset, ...]:
    urls = video.get("unsigned_urls")
    first = urls[0] if isinstance(urls, list) and urls else video.get("video_url")
    if isinstance(first, str) and (address := cleaned(first)):
        return (Asset(variant="video", uri=address, content_type="video/mp4"),)
    # Only OpenAI's own models come with pictures; other servers send the video for any variant.
    has_pictures = str(video.get("model") or "").startswith("sora-2")
    types: Mapping[Variant, str] = {"thumbnail": "image/webp", "spritesheet": "image/jpeg"}
    return tuple(
        Asset(variant=variant, uri=variant, content_type=types.get(variant, "video/mp4"))
        for variant in (_VARIANTS if has_pictures else _VARIANTS[:1])
    )


def _is_settled(video: Mapping[str, Any], now: datetime) -> bool:
    """Whether the video was completed so long ago that it will not turn up any more."""
    expires_at = moment(video.get("expires_at"))
    completed_at = moment(video.get("completed_at"))
    if expires_at is not None and now > expires_at:
        return True
    return completed_at is not None and now - completed_at > SETTLING


def _check_first_frame(submission: Submission) -> None:
    """Refuse here what the vendor would refuse after the upload."""
    if any(image.role != "first_frame" for image in submission.images):
        raise InputRejectedError("This provider takes a first_frame image only.")
    if len(submission.images) > 1:
        raise InputRejectedError("This provider takes one image only.")
    for image in submission.images:
        try:
            catalog.check_image(submission.request, image.role, recognise(image.data))
        except InvalidRequestError as error:
            raise InputRejectedError(error.message) from error


def _form(fields: Mapping[str, JsonValue], submission: Submission) -> FormData:
    # A form is used up by one request, so each gets its own.
    form = FormData(default_to_multipart=True)
    for name, value in fields.items():
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        form.add_field(name, text)
    for image in submission.images:
        form.add_field(
            "input_reference",
            BytesIO(image.data),  # sent piece by piece
            content_type=image.content_type,
            filename=f"{image.role}.{_EXTENSIONS.get(image.content_type, 'bin')}",
        )
    return form


def _wants_form(answer: Answer) -> bool:
    """Whether JSON was refused unread, by a server that takes forms only: nothing was started."""
    if answer.status != 422:
        return answer.status == 415
    body = answer.lenient_json()
    if "multipart" in _error_of(body)[1]:
        return True
    detail = body.get("detail") if isinstance(body, dict) else None
    # FastAPI does not see a form, and so misses its first field.
    places = [item.get("loc") for item in _list(detail) if isinstance(item, dict)]
    return any(isinstance(place, list) and "prompt" in place for place in places)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _cost(usage: object) -> int | None:
    """The cost in micro-dollars; None unless it is a sane number of dollars."""
    dollars = number(usage.get("cost")) if isinstance(usage, dict) else None
    if dollars is None or not 0 <= dollars <= MAX_COST_USD:
        return None
    return round(dollars * 1_000_000)
