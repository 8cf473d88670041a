"""
What came back from a provider, and what can be read off it: status, hints, words fit for a user.

Nothing here goes out; `http.py` does that.
"""

import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import orjson

from vidgen.errors import (
    AuthError,
    InputRejectedError,
    ModelRetiredError,
    OperationLostError,
    ProtocolError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitedError,
    ResultExpiredError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import Operation, VideoRequest

Deed = Literal["submit", "poll", "list", "cancel", "download"]

MAX_WAIT_S = 3600.0
MAX_ID_LENGTH = 1000
MIN_SECRET_LENGTH = 4  # to be looked for in an answer: a shorter one is a part of many words

_NUMERIC = (int, float, str)

# Answers of a gateway in front of the provider: 521 and 523 mean that it did not get through.
# Cloudflare's 522 does not: it is also said of a connection that stood and then fell silent.
REFUSED_STATUSES = frozenset({425, 503, 521, 523, 529})
TRANSIENT_STATUSES = REFUSED_STATUSES | {408, 500}
# The same request is to be sent to another address: this one has not carried it out (RFC 9110,
# 15.4.8 and 15.4.9). After 301, 302 and 303 the answer to it may be what lies there.
ELSEWHERE_STATUSES = frozenset({307, 308})
# A time limit, a conflict with itself (a lock, or the same key or mark seen before: OpenAI's SDK
# takes it for a lock), a gateway that thinks we had left, and whatever broke within.
_UNPROVEN_STATUSES = frozenset({408, 409, 499, 500})
# Envoy answers 503 to whatever goes wrong behind it, also once it has passed a request on
# (`Filter::onUpstreamReset` in its router.cc; envoyproxy/envoy#14981), and OpenAI stands behind one
# (openai/openai-python#1626). Only its reason tells; where it gives none, or had tried before,
# nobody knows what became of the first try.
_ENVOY = re.compile(
    rb"upstream connect error or disconnect"
    rb"(?:\\?/reset before headers\. reset reason: ([a-z ]+))?",
    re.IGNORECASE,
)
# No connection, no place for the request, or HTTP/2's word for a stream that was not touched.
_NEVER_PASSED_ON = frozenset(
    {
        b"connection failure",  # older ones, for each of the next three
        b"local connection failure",
        b"remote connection failure",
        b"connection timeout",
        b"overflow",
        b"remote refused stream reset",
    }
)
_SCRUBBED = re.compile(r"\b(?:sk-|AIza|ya29\.)[\w.*…-]+|\bBearer\s+\S+", re.IGNORECASE)
_WORD = re.compile(r"[\w.:/-]{1,80}", re.ASCII)
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}", re.ASCII)
_URL_QUERY = re.compile(r"(https?://[^\s?#\"'<>]+)[?#][^\s\"'<>]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One whole answer; *body* is capped."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    @property
    def ok(self) -> bool:
        """Accepted: 2xx."""
        return 200 <= self.status < 300

    @property
    def request_id(self) -> str | None:
        """What the provider's support asks for."""
        return cleaned(self.headers.get("x-request-id"))[:200] or None

    def json(self) -> dict[str, Any]:
        """
        Read the body as one JSON object.

        Raises:
            ProtocolError: It is something else.
        """
        try:
            value = orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise ProtocolError(
                f"The provider answered {self.status} with something that is no JSON.",
                http_status=self.status,
                request_id=self.request_id,
            ) from error
        if not isinstance(value, dict):
            raise ProtocolError(
                f"The provider answered {self.status} with JSON that is no object.",
                http_status=self.status,
                request_id=self.request_id,
            )
        return value

    def lenient_json(self) -> Any:
        """Read the body as JSON if it is that; None otherwise. For error bodies."""
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(self.body)
        return None


def proves_nothing(answer: Answer) -> bool:
    """Whether a submit that was answered so may have been accepted all the same."""
    status = answer.status
    is_redirect = 300 <= status < 400 and status not in ELSEWHERE_STATUSES
    is_broken = status > 501 and status not in REFUSED_STATUSES
    is_cut_off = status == 503 and _was_passed_on(answer.body)
    is_unproven = is_cut_off or status in _UNPROVEN_STATUSES
    return status < 200 or is_redirect or is_broken or is_unproven


def _was_passed_on(body: bytes) -> bool:
    """Whether this is Envoy's word for a request that the server behind it may have got."""
    return any(reason.strip().lower() not in _NEVER_PASSED_ON for reason in _ENVOY.findall(body))


def by_status(
    answer: Answer, deed: Deed, sentence: str, *, code: str | None = None, wait_s: float | None
) -> ProviderError:
    """Map a refusal that only its status explains; *sentence* says who refused what."""
    kind = _kind_by_status(answer, deed)
    return kind(
        sentence,
        retry_after_s=wait_s if kind in {TransientError, RateLimitedError} else None,
        provider_code=code,
        request_id=answer.request_id,
        http_status=answer.status,
    )


def _kind_by_status(answer: Answer, deed: Deed) -> type[ProviderError]:
    status, is_submit = answer.status, deed == "submit"
    if is_submit and proves_nothing(answer):
        return SubmitUnknownError
    match status:
        case 401 | 403:
            return AuthError
        case 402:
            return QuotaExhaustedError
        case 404 | 410:
            return ModelRetiredError if is_submit else OperationLostError
        case 429:
            return RateLimitedError
        case _ if status in TRANSIENT_STATUSES or status == 409 or status > 501:
            return TransientError
        case _:
            return InputRejectedError if is_submit else ProtocolError


def wait_hint(headers: Mapping[str, str]) -> float | None:
    """Seconds the other side wants us to wait: `retry-after-ms`, or `retry-after` in both forms."""
    if (milliseconds := number(headers.get("retry-after-ms"))) is not None:
        return bounded_wait(milliseconds / 1000)
    text = headers.get("retry-after")
    if (seconds := number(text)) is not None:
        return bounded_wait(seconds)
    with suppress(ValueError, TypeError, OverflowError):
        at = parsedate_to_datetime(text or "")
        aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return bounded_wait((aware - datetime.now(UTC)).total_seconds())
    return None


def poll_hint(headers: Mapping[str, str]) -> float | None:
    """Seconds until the next look as `openai-poll-after-ms` wants it, 1 to 60."""
    milliseconds = number(headers.get("openai-poll-after-ms"))
    return None if milliseconds is None else min(60.0, max(1.0, milliseconds / 1000))


def bounded_wait(seconds: float) -> float | None:
    """A wish worth honouring, at most an hour; None for one that is over or no number."""
    return min(seconds, MAX_WAIT_S) if seconds > 0 else None


def moved(operation: Operation, variable: str) -> OperationLostError:
    """The error of an operation whose home is not what *variable* names (any more)."""
    return OperationLostError(
        f"The video was started at {operation.endpoint}, but {variable} names another server now,"
        f" and the key is not sent to both. Set {variable}={operation.endpoint} again and retry"
        " the job."
    )


def cleaned(text: object) -> str:
    """
    *text* in one line of printable characters, empty if it is no text.

    Headers and JSON may carry NUL and halves of characters, which PostgreSQL does not store.
    """
    line = " ".join(text.split()) if isinstance(text, str) else ""
    return line if line.isprintable() else "".join(filter(str.isprintable, line))


def word(value: object, *, secret: str = "") -> str | None:
    """A code, which some servers send as a number; None for more than a word, and for a key."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    text = str(value)
    is_key = bool(_SCRUBBED.search(text)) or (len(secret) >= MIN_SECRET_LENGTH and secret in text)
    return text if _WORD.fullmatch(text) and not is_key else None


def is_storable_id(text: str) -> bool:
    """Whether *text* can be an operation's id: printable, and of a length somebody can look at."""
    return 0 < len(text) <= MAX_ID_LENGTH and text.isprintable() and not text.isspace()


def media_type(value: object, default: str) -> str:
    """A media type as a provider tells it, or *default*."""
    is_one = isinstance(value, str) and _MEDIA_TYPE.fullmatch(value)
    return str(value) if is_one else default


def number(value: object) -> float | None:
    """A finite number, also one in a text; None for everything else."""
    if value is None or isinstance(value, bool) or not isinstance(value, _NUMERIC):
        return None
    with suppress(ValueError, OverflowError):
        found = float(value)
        return found if math.isfinite(found) else None
    return None


def moment(value: object) -> datetime | None:
    """A time as unix seconds, milliseconds or ISO 8601; None for none, and for an absurd year."""
    seconds = number(value)
    with suppress(ValueError, OverflowError, OSError):
        if seconds is not None:
            at = datetime.fromtimestamp(seconds if seconds < 1e11 else seconds / 1000, UTC)
        else:
            at = datetime.fromisoformat(value if isinstance(value, str) else "")
        aware = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
        return aware.astimezone(UTC) if 2000 <= at.year <= 2100 else None
    return None


def percent(value: object) -> int | None:
    """A whole number from 0 to 100, also of a text such as `40%`; None for everything else."""
    found = number(value.removesuffix("%") if isinstance(value, str) else value)
    return None if found is None else int(min(100.0, max(0.0, found)))


def gone(answer: Answer, who: str, *, at_home: bool) -> ResultExpiredError | None:
    """
    The error of a result that *who* keeps no longer; None for any other refusal.

    An address elsewhere carries what opens it in itself, so there 401 and 403 say that it is over.
    """
    if answer.status in ({404, 410} if at_home else {401, 403, 404, 410}):
        return ResultExpiredError(
            f"{who} no longer hands out the video ({answer.status}).", http_status=answer.status
        )
    return None


def private_texts(request: VideoRequest) -> tuple[str, ...]:
    """What must not be quoted back from an answer to the submit of *request*."""
    longer = (text for text in request.extra.values() if isinstance(text, str) and len(text) >= 20)
    return (request.prompt, request.negative_prompt or "", *longer)


def scrubbed(text: object, *, secret: str = "", private: Iterable[str] = ()) -> str:
    """Quote what a provider said in one short line, without keys, queries, or *private* texts."""
    line = cleaned(text)
    if len(secret) >= MIN_SECRET_LENGTH:
        line = line.replace(secret, "…")
    line = _URL_QUERY.sub(r"\1", _SCRUBBED.sub("…", line[:1000]))
    for each in private:
        line = _without(line, cleaned(each))
    return line[:300].strip()


def _without(line: str, prompt: str, window: int = 20) -> str:
    """Drop every stretch of *line* that stands in *prompt* too; also when it was cut."""
    if len(prompt) < window:
        return line.replace(prompt, "…") if prompt else line
    kept, at = [], 0
    while at < len(line):
        if at + window <= len(line) and line[at : at + window] in prompt:
            end = at + window
            while end < len(line) and line[at : end + 1] in prompt:
                end += 1
            kept.append("…")
            at = end
        else:
            kept.append(line[at])
            at += 1
    return "".join(kept)
