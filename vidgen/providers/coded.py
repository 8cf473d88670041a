"""
Refusals of vendors that number or name their errors, some of them under HTTP 200.

What a code means depends on what was asked. A refused submit is over, whatever the reason. A
refused look says nothing about the video, which goes on and is paid for: there only a wrong key and
an unknown id are told, and everything else means to look again.
"""

import re
from collections.abc import Mapping
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
    SubmitUnknownError,
    TransientError,
)
from vidgen.providers.answer import Deed, moment, number, word
from vidgen.providers.plain import Said, Vendor, blocked, broken, rejected

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


def said(deed: Deed, code: object, words: object, kind: Kind | None) -> Said:
    """
    What the vendor says with a refusal of *deed*.

    Args:
        code: The vendor's own, a number or a word.
        kind: What the code means to a submit; None leaves it to the status.
    """
    text = words if isinstance(words, str) else ""
    if "no longer available" in text.lower() and deed == "submit":
        kind = kind or ModelRetiredError
    if kind is not None and deed != "submit":
        kind = _TO_A_LOOK.get(kind, kind)
    return Said(code=code, words=text, kind=kind)


def verdict(vendor: Vendor, code: object, kind: Kind | None) -> ProviderError:
    """
    How a generation ended, in our words: the vendor's own may repeat the prompt, which a look
    lacks. A *kind* that is about passing trouble is no reason to look again: it is over.
    """
    if kind is ContentBlockedError:
        return blocked(vendor.label, word(code))
    if kind is InputRejectedError:
        return rejected(vendor.label, word(code))
    return broken(vendor.label, word(code))


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
