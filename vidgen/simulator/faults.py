"""
The words for everything a simulated provider can do wrong, and what each means. Pure: no HTTP here.

An outcome is a name with an optional argument. Refusals start with the HTTP status, the rest are
words; a directive in a prompt may put the deed in front (`poll-503`):

    refusals   301 302 303 307 308 400 400-image 400-moderation 400-retired 400-api-key 401 403 404
               404-model 408 409 410 413 422 429 429-<hint> 429-<money code> 499 500 502 503
               503-slow-down 503-overloaded 503-retry-after 503-connection-failure
               503-connection-termination 504
    cuts       disconnect hang   (before anything is accepted)
               accept-then-disconnect accept-then-hang accept-then-<refusal>   (it is billed)
    malformed  not-json html json-list json-null half-json missing-id missing-status empty huge
    verdicts   moderation failed failed-message failed-silent filtered prompt-blocked error
               no-samples expired cancelled never   (poll: once the generation is due, for good)
    content    not-ready truncated truncated-chunked stall redirect redirect-foreign redirect-loop
    modifiers  late after-ms stuck status generate slow gzip size no-length ranges ranges-changing
               hidden expires
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal, get_args

from vidgen.job import JsonValue

Deed = Literal["submit", "poll", "content", "list", "cancel", "token"]
DEEDS: tuple[Deed, ...] = get_args(Deed)

CUTS = frozenset({"disconnect", "hang"})
MALFORMED = frozenset(
    {
        "not-json",
        "html",
        "json-list",
        "json-null",
        "half-json",
        "missing-id",
        "missing-status",
        "empty",
        "huge",
    }
)
VERDICTS = frozenset(
    {
        "moderation",
        "failed",
        "failed-message",
        "failed-silent",
        "filtered",
        "prompt-blocked",
        "error",
        "no-samples",
        "expired",
        "cancelled",
        "never",
    }
)
DELIVERIES = frozenset(
    {
        "not-ready",
        "truncated",
        "truncated-chunked",
        "stall",
        "redirect",
        "redirect-foreign",
        "redirect-loop",
    }
)
TRUNCATIONS = frozenset({"truncated", "truncated-chunked", "stall"})
# They change an answer and do not replace it, so several may hold at once.
MODIFIERS: Mapping[str, Deed] = {
    "late": "submit",
    "generate": "submit",
    "after-ms": "poll",
    "stuck": "poll",
    "status": "poll",
    "slow": "content",
    "gzip": "content",
    "size": "content",
    "no-length": "content",
    "ranges": "content",
    "ranges-changing": "content",
    "hidden": "list",
    "expires": "token",
}
_ACCEPTED = "accept-then-"
_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "k": 1024.0, "M": 1024.0**2, "G": 1024.0**3}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|min|k|M|G)?")
_DIRECTIVE = re.compile(r"\[\[sim:\s*([^\]]+?)\s*\]\]")
_MONEY_CODES = frozenset(
    {
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
    }
)
_HINTS = frozenset(
    {"retry-after", "retry-date", "retry-after-ms", "retry-info", "per-minute", "per-day"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """
    An HTTP error, not yet written in anybody's dialect.

    Attributes:
        kind: OpenAI's `type`.
        code: OpenAI's `code`.
        word: Google's `status`.
        details: Google's `details`.
    """

    status: int
    message: str
    kind: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    word: str = "INVALID_ARGUMENT"
    details: tuple[JsonValue, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)


# Envoy's words, in plain text, of a request that the server behind it did not answer.
BROKEN_OFF = "upstream connect error or disconnect/reset before headers."


def _broken_off(reason: str) -> tuple[str, str | None, str, str]:
    return "server_error", None, "UNAVAILABLE", f"{BROKEN_OFF} reset reason: {reason}"


_ELSEWHERE = ("redirect", None, "UNKNOWN", "Look elsewhere.")
# status and flavour -> OpenAI's type and code, Google's word, a message
_REFUSALS: Mapping[str, tuple[str, str | None, str, str]] = {
    **dict.fromkeys(("301", "302", "303", "307", "308"), _ELSEWHERE),
    "400": ("invalid_request_error", None, "INVALID_ARGUMENT", "The request is not valid."),
    "400-image": (
        "invalid_request_error",
        None,
        "INVALID_ARGUMENT",
        "Inpaint image must match the requested width and height",
    ),
    "400-moderation": (
        "invalid_request_error",
        "moderation_blocked",
        "INVALID_ARGUMENT",
        "Your request was blocked by our moderation system. Support codes: 89371032",
    ),
    "400-retired": (
        "invalid_request_error",
        None,
        "INVALID_ARGUMENT",
        "This model is no longer available.",
    ),
    "400-api-key": (
        "invalid_request_error",
        "invalid_api_key",
        "INVALID_ARGUMENT",
        "API key not valid. Please pass a valid API key.",
    ),
    "401": (
        "invalid_request_error",
        "invalid_api_key",
        "UNAUTHENTICATED",
        "Request had invalid authentication credentials.",
    ),
    "403": (
        "request_forbidden",
        "unsupported_country_region_territory",
        "PERMISSION_DENIED",
        "Country, region, or territory not supported, or permission denied.",
    ),
    "404": ("invalid_request_error", None, "NOT_FOUND", "The requested entity was not found."),
    "404-model": (
        "invalid_request_error",
        "model_not_found",
        "NOT_FOUND",
        "The model does not exist or you do not have access to it.",
    ),
    "408": ("server_error", None, "DEADLINE_EXCEEDED", "The request timed out."),
    "409": ("conflict_error", None, "ABORTED", "The request conflicts with another one."),
    "410": ("invalid_request_error", None, "NOT_FOUND", "This resource is no longer available."),
    "413": ("invalid_request_error", None, "INVALID_ARGUMENT", "The request is too large."),
    "422": ("invalid_request_error", None, "INVALID_ARGUMENT", "The request is unprocessable."),
    "429": (
        "rate_limit_error",
        "rate_limit_exceeded",
        "RESOURCE_EXHAUSTED",
        "Rate limit reached; please slow down.",
    ),
    "499": ("server_error", None, "CANCELLED", "The client closed the request."),
    "500": ("server_error", "server_error", "INTERNAL", "The server had an internal error."),
    "502": ("server_error", None, "UNAVAILABLE", "Bad gateway."),
    "503": (
        "server_error",
        "server_error",
        "UNAVAILABLE",
        "The service is currently unavailable.",
    ),
    "503-slow-down": ("server_error", "slow_down", "UNAVAILABLE", "Slow down, please."),
    "503-overloaded": (
        "server_error",
        "server_is_overloaded",
        "UNAVAILABLE",
        "The model is overloaded. Please try again later.",
    ),
    "503-connection-failure": _broken_off("remote connection failure"),
    "503-connection-termination": _broken_off("connection termination"),
    "504": ("server_error", None, "DEADLINE_EXCEEDED", "Deadline exceeded."),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One thing that goes wrong (or merely differently): a name of this module and its argument."""

    name: str
    argument: str | None = None

    def number(self, default: float) -> float:
        """
        The argument as seconds, bytes or a plain number (`20s`, `500ms`, `64k`, `3`).

        Raises:
            ValueError: It is no number.
        """
        if self.argument is None:
            return default
        found = _NUMBER.fullmatch(self.argument)
        if found is None:
            raise ValueError(f"{self.name} wants a number, not {self.argument!r}")
        return float(found[1]) * _UNITS[found[2] or ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """What `[[sim:…]]` in a prompt asks for; *times* None means always."""

    deed: Deed
    outcome: Outcome
    times: int | None = None


def check(deed: Deed, outcome: Outcome) -> None:
    """
    Return if *outcome* can happen to *deed*.

    Raises:
        ValueError: No such outcome, or not for this deed, or a number that is none.
    """
    name = outcome.name
    known = (
        name.removeprefix(_ACCEPTED) in CUTS | MALFORMED
        or _is_refusal(name.removeprefix(_ACCEPTED))
        or (name in VERDICTS and deed == "poll")
        or (name in DELIVERIES and deed == "content")
        or name == "late"
        or MODIFIERS.get(name) == deed
    )
    if not known or (name.startswith(_ACCEPTED) and deed != "submit"):
        raise ValueError(f"no outcome {name!r} for {deed}; see vidgen.simulator.faults")
    if name not in {"status", "retry-date"}:
        outcome.number(0)


def directives(prompt: str) -> tuple[Directive, ...]:
    """
    Every `[[sim:…]]` in *prompt*: `[[sim:moderation]]`, `[[sim:poll-503 x3]]`, …

    Raises:
        ValueError: One of them is not understood.
    """
    return tuple(_directive(found[1]) for found in _DIRECTIVE.finditer(prompt))


def refusal(outcome: Outcome) -> Refusal | None:
    """The HTTP error that *outcome* stands for, None if it is no refusal."""
    if not _is_refusal(outcome.name):
        return None
    status, _, flavour = outcome.name.partition("-")
    kind, code, word, message = _REFUSALS.get(outcome.name) or _REFUSALS[status]
    headers: dict[str, str] = {}
    details: list[JsonValue] = []
    if flavour in _HINTS:
        headers, details = _hint(flavour, outcome)
    if status.startswith("3"):
        headers = {"location": f"/elsewhere/{status}"}
    if flavour.replace("-", "_") in _MONEY_CODES:
        kind, code = "insufficient_quota", flavour.replace("-", "_")
        message = "You exceeded your current quota, please check your plan and billing details."
    if outcome.name == "400-api-key":
        details = [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
            }
        ]
    return Refusal(
        status=int(status),
        message=message,
        kind=kind,
        code=code,
        word=word,
        details=tuple(details),
        headers=headers,
    )


def after_acceptance(outcome: Outcome) -> Outcome | None:
    """What happens once the submit is accepted and billed, None if *outcome* comes before that."""
    if outcome.name.startswith(_ACCEPTED):
        return Outcome(name=outcome.name.removeprefix(_ACCEPTED), argument=outcome.argument)
    return outcome if outcome.name in MALFORMED else None


def _is_refusal(name: str) -> bool:
    status, _, flavour = name.partition("-")
    money = status == "429" and flavour.replace("-", "_") in _MONEY_CODES
    hinted = status in {"429", "503"} and flavour in _HINTS
    return name in _REFUSALS or money or hinted


def _directive(text: str) -> Directive:
    head, *rest = text.split()
    times = None
    if rest and re.fullmatch(r"x\d+", rest[-1]):
        times = int(rest.pop()[1:])
    deed, name = _deed_of(head)
    outcome = Outcome(name=name, argument=" ".join(rest) or None)
    check(deed, outcome)
    return Directive(deed=deed, outcome=outcome, times=times)


def _deed_of(head: str) -> tuple[Deed, str]:
    """`poll-503` names its deed; a bare word goes where it happens, a bare status to submit."""
    for deed in DEEDS:
        if head.startswith(deed + "-"):
            return deed, head.removeprefix(deed + "-")
    if head in VERDICTS:
        return "poll", head
    if head in DELIVERIES:
        return "content", head
    return MODIFIERS.get(head, "submit"), head


def _hint(flavour: str, outcome: Outcome) -> tuple[dict[str, str], list[JsonValue]]:
    """Headers and Google's details that say when to come back."""
    wait_s = outcome.number(1.0)
    match flavour:
        case "retry-after":
            return {"retry-after": f"{wait_s:g}"}, []
        case "retry-date":
            at = datetime.now(UTC) + timedelta(seconds=wait_s)
            return {"retry-after": format_datetime(at, usegmt=True)}, []
        case "retry-after-ms":
            return {"retry-after-ms": f"{outcome.number(1000):.0f}"}, []
        case "retry-info":
            return {}, [_retry_info(wait_s)]
        case _:
            period = "PerMinute" if flavour == "per-minute" else "PerDay"
            return {}, [
                _quota_failure(period),
                *([_retry_info(wait_s)] if outcome.argument else []),
            ]


def _retry_info(wait_s: float) -> JsonValue:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{wait_s:g}s"}


def _quota_failure(period: str) -> JsonValue:
    metric = "generativelanguage.googleapis.com/predict_long_running_requests"
    return {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        "violations": [
            {
                "quotaMetric": metric,
                "quotaId": f"PredictLongRunningRequests{period}PerProjectPerModel",
                "quotaValue": "10",
            }
        ],
    }
