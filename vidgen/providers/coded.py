"""
Refusals of vendors that number or name their errors, some of them under HTTP 200.

What a code means depends on what was asked. A refused submit is over, whatever the reason. A
refused look says nothing about the video, which goes on and is paid for: there only a wrong key and
an unknown id are told, and everything else means to look again.
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from vidgen.errors import (
    ContentBlockedError,
    GenerationFailedError,
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
from vidgen.providers.answer import (
    Answer,
    Deed,
    by_status,
    moment,
    number,
    scrubbed,
    wait_hint,
    word,
)
from vidgen.providers.plain import Vendor

Kind = type[ProviderError]

MAX_COST_MICROS = 1_000_000_000  # of one video: more is a mistake or a joke
_TO_A_LOOK: Mapping[Kind, Kind] = {
    InputRejectedError: ProtocolError,
    ContentBlockedError: ProtocolError,
    ModelRetiredError: OperationLostError,
    QuotaExhaustedError: TransientError,
    SubmitUnknownError: TransientError,
}
_DATED = re.compile(r"\d{8}T\d{6}Z", re.ASCII)


def refusal(
    vendor: Vendor,
    answer: Answer,
    deed: Deed,
    *,
    code: object,
    said: object,
    kind: Kind | None,
    secrets: Iterable[str] = (),
    private: Iterable[str] = (),
) -> ProviderError:
    """
    The error for a refused *deed*.

    Args:
        code: The vendor's own, a number or a word.
        said: The vendor's own words; quoted from a submit only, where *private* is known.
        kind: What the code means to a submit; None leaves it to the status.
        secrets: Everything that must not come back in an answer.
    """
    named, text = word(code), scrubbed(said, private=private) if deed == "submit" else ""
    for secret in filter(None, secrets):
        named = word(named, secret=secret)
        text = text.replace(secret, "…")
    shown = f" {named}" if named and named != str(answer.status) else ""
    sentence = f"{vendor.label} refused the {deed} ({answer.status}{shown})"
    sentence = f"{sentence}: {text}" if text else f"{sentence}."
    if "no longer available" in str(said).lower() and deed == "submit":
        kind = kind or ModelRetiredError
    if deed == "submit" and (answer.status in {404, 410} or kind is ModelRetiredError):
        sentence += f" The model is switched off or unknown there, or {vendor.variable} is wrong."
    if kind is None:
        return by_status(answer, deed, sentence, code=named, wait_s=wait_hint(answer.headers))
    kind = kind if deed == "submit" else _TO_A_LOOK.get(kind, kind)
    return kind(
        sentence,
        retry_after_s=wait_hint(answer.headers) if kind in _PASSING else None,
        provider_code=named,
        request_id=answer.request_id,
        http_status=answer.status,
    )


_PASSING = frozenset({TransientError, RateLimitedError})


def verdict(vendor: Vendor, code: object, kind: Kind | None) -> ProviderError:
    """
    How a generation ended, in our words: the vendor's own may repeat the prompt, which a look
    lacks. A *kind* that is about passing trouble is no reason to look again: it is over.
    """
    named = word(code)
    shown = f" (code {named})" if named else ""
    if kind is ContentBlockedError:
        return ContentBlockedError(
            f"{vendor.label}'s moderation blocked the video{shown}; change the prompt or the"
            " image.",
            provider_code=named,
        )
    if kind is InputRejectedError:
        return InputRejectedError(
            f"{vendor.label} rejected the request after it had taken it on{shown}; check the"
            " prompt, the images and the parameters.",
            provider_code=named,
        )
    sentence = f"The generation failed at {vendor.label}{shown}"
    sentence += "." if named else ", which gives no code for it."
    return GenerationFailedError(sentence, provider_code=named)


def cancelled(vendor: Vendor) -> ProviderError:
    """How a generation ended that somebody stopped at the vendor."""
    return GenerationFailedError(f"The video was cancelled at {vendor.label}.")


def without_video(vendor: Vendor) -> ProviderError:
    """How a generation ended that is called a success and has nothing to show."""
    return GenerationFailedError(f"{vendor.label} finished the generation without a video.")


def micros(count: object, each_micros: int) -> int | None:
    """What *count* of something cost at *each_micros*; None unless it is a sane sum."""
    found = number(count)
    if found is None or not 0 <= found * each_micros <= MAX_COST_MICROS:
        return None
    return round(found * each_micros)


def signed_until(url: str) -> datetime | None:
    """
    Until when a signed address of an object storage holds: `Expires` (OSS, S3), or the date and the
    seconds that stand in it (TOS, S3); None if it does not say.
    """
    with suppress(ValueError, OverflowError):
        fields = {name.lower(): texts[0] for name, texts in parse_qs(urlsplit(url).query).items()}
        if "expires" in fields:
            return moment(fields["expires"])
        for vendor in ("tos", "amz"):
            date, seconds = fields.get(f"x-{vendor}-date"), fields.get(f"x-{vendor}-expires")
            if date and seconds and _DATED.fullmatch(date):
                begun = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return moment(begun.timestamp() + float(seconds))
    return None
