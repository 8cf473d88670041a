"""
Kling's own API, as `kling`: text and image to video, with a token of our own making.

    POST /videos/{text2video|image2video}            -> {code, message, request_id, data: {task_id}}
    GET  /videos/{the same}/{task_id}                -> data: {task_status, task_result, …}
    GET  /videos/{the same}?pageNum=1&pageSize=500   -> data: [task, …]

The subpath is part of a task's address, so the operation keeps it. The key is a pair,
`access:secret`: the access key goes along as the issuer of an HS256 token of half an hour, the
secret only signs it. Each request gets a token of its own, so none ends within a job. A key without
a colon is sent as it is: a gateway's.

Our own `external_task_id` (the job and its attempt) comes back in the list: a task that carries it
is ours, and one that carries another is not. That is what an ambiguous submit is cleared up with.

Sources: the General Information, Text to Video and Image to Video pages of Kling's developer portal
as quoted in public repositories (the error table of 2026-05-05, the token's three claims, `sound`,
`mode`, 3 to 15 seconds, 2500 characters, `external_task_id` unique for a user, 30 days of keeping);
ComfyUI `comfy_api_nodes/apis/kling.py` for request and task; new-api `relay/channel/task/kling` for
`final_unit_deduction`. Kling has no Python SDK of its own; PyJWT reads our token.

Not verified, since no paid key was used: the order of the list (so it is read to its end, unless it
visibly falls); whether a failed task is billed (`final_unit_deduction` of the task tells); that
moderation can only be told by the words of `task_status_msg`; the limits of one account. A unit is
counted as 0.14 USD, the list price of the standard packs: larger ones are cheaper, so the cost is
an upper bound. The newer models behind another API (`kling-3.0-turbo`, `kling-4.0`) are not
offered.
"""

import hashlib
import hmac
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from vidgen.catalog import kling as catalog
from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    InputRejectedError,
    ModelRetiredError,
    OperationLostError,
    ProtocolError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitedError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers import coded
from vidgen.providers.answer import (
    Answer,
    Deed,
    cleaned,
    moment,
    number,
    word,
)
from vidgen.providers.api import Api, quoted_id
from vidgen.providers.http import ProviderHttp, same_origin
from vidgen.providers.plain import Said, Vendor, filled, video_at
from vidgen.providers.protocol import (
    Asset,
    Credential,
    Failed,
    ImageBytes,
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

SUBPATHS = ("text2video", "image2video")
ORIGINS = (
    "https://api-singapore.klingai.com",
    "https://api-beijing.klingai.com",
    "https://api.klingai.com",
)
TOKEN_S = 1800  # the most that Kling takes
SKEW_S = 30  # how far our clock may be ahead of theirs
UNIT_MICROS = 140_000
KEPT = timedelta(days=30)
MAX_IMAGE_BYTES = 10 * 1024 * 1024
PAGE_LENGTH = 500
MAX_PAGES = 20
# Identity is told by a mark of ours, so clocks only say when a list need not be read any further.
LEEWAY = timedelta(hours=1)

_MODES = {"720p": "std", "1080p": "pro"}
_SUCCEEDED = frozenset({"succeed", "succeeded", "success"})
_FAILED = frozenset({"failed", "fail"})
_BLOCKED_WORDS = (
    "risk control",
    "sensitive",
    "policy",
    "safety",
    "moderat",
    "风控",
    "敏感",
    "审核",
)
_KINDS: Mapping[str, coded.Kind] = {
    "1000": AuthError,  # authentication failed
    "1001": AuthError,  # authorization is empty
    "1002": AuthError,  # authorization is invalid
    "1003": AuthError,  # the token is not valid yet
    "1004": AuthError,  # the token has expired
    "1100": AuthError,  # account exception
    "1101": QuotaExhaustedError,  # in arrears
    "1102": QuotaExhaustedError,  # the resource pack is used up or expired
    "1103": AuthError,  # no right to this model or API
    "1200": InputRejectedError,
    "1201": InputRejectedError,  # a wrong key or value
    "1202": InputRejectedError,  # a wrong method
    "1203": ModelRetiredError,  # no such resource; of a task: lost
    "1300": ContentBlockedError,  # a policy of the platform
    "1301": ContentBlockedError,  # the content policy
    "1302": RateLimitedError,
    "1303": RateLimitedError,  # concurrency of the resource pack
    "1304": AuthError,  # an address that is not on the account's list
    "5000": SubmitUnknownError,  # an error within, and another
    "5001": TransientError,  # down for a while
    "5002": SubmitUnknownError,  # a timeout within
}
_CLOCK_CODES = frozenset({"1003", "1004"})


def build(surroundings: Surroundings) -> "KlingProvider":
    """The provider as the settings want it."""
    (interface,) = catalog.VENDOR.interfaces
    return KlingProvider(surroundings.address(interface), surroundings.http)


class KlingProvider:
    """Videos by Kling at *base_url*, e.g. `https://api-singapore.klingai.com/v1`."""

    name = "kling"
    charges_failures = False  # each task tells

    def __init__(self, base_url: str, http: ProviderHttp) -> None:
        """Remember where; connections are *http*'s."""
        self._api = Api(
            provider=self.name,
            vendor=Vendor(label="Kling", base_url=base_url.rstrip("/"), variable="KLING_BASE_URL"),
            http=http,
            said=_refused,
            id_field="task_id",
            headers=headers,
            is_refusal=_is_refusal,
        )

    async def submit(self, submission: Submission, credential: Credential) -> Submitted:
        """Start one paid generation, once; see `Provider.submit`."""
        subpath = SUBPATHS[1] if submission.images else SUBPATHS[0]
        answer = await self._api.submit(f"videos/{subpath}", build_body, submission, credential)
        operation = self._api.receipt(
            answer, submission, credential, read=_task, extra={"subpath": subpath}
        )
        progress = parse_task(self._api.vendor, _task(answer))
        return Submitted(operation=operation, progress=progress)

    async def poll(self, operation: Operation, credential: Credential) -> Progress:
        """Look once; see `Provider.poll`."""
        path = f"videos/{_subpath_of(operation)}/{quoted_id(operation)}"
        answer = await self._api.ask("poll", "GET", self._api.at(operation, path), credential)
        task = _task(answer)
        if not isinstance(task.get("task_status"), str):
            raise ProtocolError("Kling's answer about the video has no status.")
        return parse_task(self._api.vendor, task)

    def open_result(
        self, operation: Operation, asset: Asset, credential: Credential
    ) -> AbstractAsyncContextManager[ResultStream]:
        """Open the bytes of *asset*; see `Provider.open_result`."""
        return self._api.open_result(operation, asset, credential)

    async def cancel(self, operation: Operation, credential: Credential) -> bool:
        """Kling has no documented cancel: always False."""
        return False

    async def find_recent(
        self, submission: Submission, since: datetime, credential: Credential
    ) -> Listing:
        """
        The task that carries the mark of *submission*; see `FindsRecent`.

        A task without any mark is another client's at Kling itself, and may be ours at a gateway.
        """
        home = self._api.vendor.base_url
        at_kling = any(same_origin(home, each) for each in ORIGINS)
        search = _Search(mark=external_id(submission), since=since - LEEWAY, at_kling=at_kling)
        for subpath in SUBPATHS:
            async for page in self._pages(subpath, credential, MAX_PAGES):
                for task in page:
                    with suppress(ProtocolError):
                        extra = {"subpath": subpath}
                        operation = self._api.operation(task, submission, credential, extra)
                        search.weigh(task, operation)
                if search.is_past(page):
                    break
            else:
                search.is_whole = False
            search.turn()
        return search.listing()

    async def look_through(
        self, wanted: Sequence[Operation], credential: Credential, pages: int
    ) -> Overview:
        """What the lists say about *wanted*; see `ListsVideos`."""
        home = self._api.vendor.base_url
        missing = {each.id: each for each in wanted if same_origin(each.endpoint, home)}
        found: dict[str, Progress] = {}
        subpaths = sorted({_subpath_of(each) for each in missing.values()})
        asked = 0
        for subpath in subpaths:
            async for page in self._pages(subpath, credential, max(1, pages // len(subpaths))):
                asked += bool(page)
                for task in page:
                    name = task.get("task_id")
                    if name in missing and isinstance(task.get("task_status"), str):
                        found[str(name)] = parse_task(self._api.vendor, task)
                        del missing[str(name)]
                if sum(_subpath_of(each) == subpath for each in missing.values()) < WORTH_A_PAGE:
                    break
        return Overview(found=found, pages=asked)

    async def accepts(self, model: str, credential: Credential) -> bool:
        """Whether Kling takes *credential*; see `Provider.accepts`."""
        return await self._api.accepts(_page("text2video", 1, 1), credential)

    async def aclose(self) -> None:
        """Nothing of its own to close: the connections belong to the registry."""

    async def _pages(
        self, subpath: str, credential: Credential, pages: int
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """The pages of the list, until one is not full."""
        for number_of in range(1, pages + 1):
            url = self._api.url(_page(subpath, number_of, PAGE_LENGTH))
            answer = await self._api.page(url, credential, of="tasks")
            data = answer.json().get("data")
            if not isinstance(data, list):
                raise ProtocolError("Kling's list of tasks has no data.")
            tasks = [task for task in data if isinstance(task, dict)]
            yield tasks
            if len(data) < PAGE_LENGTH:
                yield []  # the end, told by an empty page
                return


class _Search:
    """Reads lists of tasks for one that carries a mark."""

    def __init__(self, *, mark: str, since: datetime, at_kling: bool) -> None:
        self.is_whole = True
        self._mark = mark
        self._since = since
        self._at_kling = at_kling
        self._ours: list[Operation] = []
        self._unmarked: list[Operation] = []
        self._shows_marks = False
        self._is_readable = True
        self.turn()

    def turn(self) -> None:
        """Another list begins."""
        self._last: datetime | None = None
        self._rises = self._falls = False

    def weigh(self, task: Mapping[str, Any], operation: Operation) -> None:
        """Remember *task* if it is ours, or may be."""
        created_at = moment(task.get("created_at"))
        if created_at is not None:
            self._rises |= self._last is not None and created_at > self._last
            self._falls |= self._last is not None and created_at < self._last
            self._last = created_at
        told = task.get("task_info")
        mark = told.get("external_task_id") if isinstance(told, dict) else None
        self._shows_marks |= bool(mark)
        if mark == self._mark:
            self._ours.append(operation)
        elif not mark and (created_at is None or created_at >= self._since):
            self._unmarked.append(operation)

    def is_past(self, page: Sequence[object]) -> bool:
        """Whether the list need not be read on: it is over, or falls and is too old by now."""
        is_old = self._last is not None and self._last < self._since
        return not page or (is_old and self._falls and not self._rises)

    def listing(self) -> Listing:
        """What all lists together say."""
        return Listing(
            candidates=tuple(self._ours),
            doubtful=() if self._at_kling else tuple(self._unmarked),
            trusted=self.is_whole and (self._at_kling or self._shows_marks),
        )


def headers(credential: Credential) -> dict[str, str]:
    """The header that opens Kling: a token of the pair, or a gateway's key as it is."""
    if not credential.secret:
        return {}
    access, is_pair, secret = credential.secret.partition(":")
    text = token(access, secret, datetime.now(UTC)) if is_pair else credential.secret
    return {"Authorization": f"Bearer {text}"}


def token(access_key: str, secret_key: str, now: datetime) -> str:
    """A JSON Web Token (RFC 7519) that opens Kling for half an hour from *now*."""
    seconds = int(now.timestamp())
    head = {"alg": "HS256", "typ": "JWT"}
    claims = {"iss": access_key, "exp": seconds + TOKEN_S, "nbf": seconds - SKEW_S}
    signed = f"{_base64url(orjson.dumps(head))}.{_base64url(orjson.dumps(claims))}"
    digest = hmac.new(secret_key.encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{_base64url(digest)}"


def external_id(submission: Submission) -> str:
    """Our own name for the task of *submission*: no other attempt has it."""
    return f"vidgen-{submission.job_id}-{submission.attempt}"


def build_body(submission: Submission) -> dict[str, JsonValue]:
    """The body of the submit; with a first frame the clip has its shape, and is told none."""
    request = submission.request
    frames = {image.role: _image(image) for image in submission.images}
    sound = None if request.audio is None else ("on" if request.audio else "off")
    return filled(
        {
            "model_name": request.model,
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "mode": _MODES.get(request.resolution or "", request.resolution),
            "duration": None if request.seconds is None else str(request.seconds),
            "aspect_ratio": None if frames else request.aspect_ratio,
            "sound": sound,
            "image": frames.get("first_frame"),
            "image_tail": frames.get("last_frame"),
            "external_task_id": external_id(submission),
            **request.extra,
        }
    )


def parse_task(vendor: Vendor, task: Mapping[str, Any]) -> Progress:
    """Turn a task into progress; a word nobody knows means that it is still being made."""
    status = str(task.get("task_status") or "").lower()
    cost_micros = coded.micros(task.get("final_unit_deduction"), UNIT_MICROS)
    if status in _FAILED:
        error = _verdict(vendor, task)
        return Failed(error=error, charged=bool(cost_micros), cost_micros=cost_micros)
    if status not in _SUCCEEDED:
        return Running()
    url = next(_urls(task), None)
    if url is None:
        error = coded.without_video(vendor)
        return Failed(error=error, charged=bool(cost_micros), cost_micros=cost_micros)
    ended_at = moment(task.get("updated_at"))
    return Succeeded(
        assets=(video_at(url),),
        expires_at=None if ended_at is None else ended_at + KEPT,
        cost_micros=cost_micros,
    )


def _urls(task: Mapping[str, Any]) -> Iterator[str]:
    result = task.get("task_result")
    videos = result.get("videos") if isinstance(result, dict) else None
    for video in videos if isinstance(videos, list) else ():
        if isinstance(video, dict) and (url := cleaned(video.get("url"))):
            yield url


def _verdict(vendor: Vendor, task: Mapping[str, Any]) -> ProviderError:
    said = str(task.get("task_status_msg") or "").lower()
    is_blocked = any(term in said for term in _BLOCKED_WORDS)
    return coded.verdict(vendor, None, ContentBlockedError if is_blocked else None)


def _refused(answer: Answer, deed: Deed) -> Said:
    code, said = _said(answer)
    kind = _KINDS.get(code or "")
    if code == "1201" and "external_task_id" in said:
        # Our own mark is there already: an earlier try was accepted, whatever its answer was.
        kind = SubmitUnknownError
    if code in _CLOCK_CODES:
        said = f"{said} Is the clock of this machine right?"
    return coded.said(deed, code, said, kind)


def _is_refusal(answer: Answer) -> bool:
    code, _ = _said(answer)
    return not answer.ok or code not in {None, "0"}


def _said(answer: Answer) -> tuple[str | None, str]:
    """Kling's code and message, or a gateway's."""
    body = answer.lenient_json()
    if not isinstance(body, dict):
        return None, ""
    inner = body.get("error")
    source = inner if isinstance(inner, dict) else body
    found = number(source.get("code"))
    code = word(source.get("code")) if found is None else f"{found:.0f}"
    message = source.get("message")
    return code, message if isinstance(message, str) else ""


def _task(answer: Answer) -> dict[str, Any]:
    task = answer.json().get("data")
    if not isinstance(task, dict):
        raise ProtocolError("Kling's answer has no task.")
    return task


def _page(subpath: str, number_of: int, length: int) -> str:
    return f"videos/{subpath}?pageNum={number_of}&pageSize={length}"


def _subpath_of(operation: Operation) -> str:
    found = operation.extra.get("subpath")
    if found not in SUBPATHS:
        raise OperationLostError("The stored operation does not say under which path it was made.")
    return str(found)


def _image(image: ImageBytes) -> str:
    if image.content_type not in {"image/png", "image/jpeg"}:
        raise InputRejectedError(
            f"The {image.role} image is {image.content_type}; Kling takes PNG and JPEG."
        )
    if len(image.data) > MAX_IMAGE_BYTES:
        raise InputRejectedError(
            f"The {image.role} image has {len(image.data)} bytes; Kling takes at most 10 MiB."
        )
    return b64encode(image.data).decode("ascii")  # bare, without the `data:` in front


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).decode("ascii").rstrip("=")
