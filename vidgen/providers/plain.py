"""
What the plain wire formats share: JSON both ways, a bearer key, and results at signed addresses.

A signed address lives elsewhere and ends after hours: a refusal from there says nothing about the
key, which never went there, and a fresh look gives a fresh address.
"""

from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    GenerationFailedError,
    InputRejectedError,
    ModelRetiredError,
    ProtocolError,
    ProviderError,
    QuotaExhaustedError,
    RateLimitedError,
    ResultExpiredError,
    SubmitUnknownError,
    TransientError,
)
from vidgen.job import JsonValue, Operation
from vidgen.providers.answer import (
    MIN_SECRET_LENGTH,
    Answer,
    Deed,
    by_status,
    cleaned,
    gone,
    is_storable_id,
    moved,
    scrubbed,
    wait_hint,
    word,
)
from vidgen.providers.http import joined, same_origin
from vidgen.providers.protocol import Asset, Credential, ImageBytes, Submission

# What storage behind a signed address answers once the signature has ended or the file is gone.
_GONE = frozenset({400, 403, 404, 410})
_PASSING = frozenset({TransientError, RateLimitedError})


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """
    What a vendor says with a refusal.

    Attributes:
        code: Its own, a number or a word.
        words: Its own as well.
        kind: The class that one of the two gives away; None leaves it to the status.
        wait_s: When it wants to be asked again, if not a header says so.
    """

    code: object = None
    words: str = ""
    kind: type[ProviderError] | None = None
    wait_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Vendor:
    """
    Who is asked, and where.

    Attributes:
        label: The vendor's name in sentences.
        base_url: As configured, with the version in it and without a slash at the end.
        variable: The setting that names *base_url*.
        unknown_model: What a submit that nobody there knows about may mean.
    """

    label: str
    base_url: str
    variable: str
    unknown_model: str = "The model is switched off or unknown there"

    def check_home(self, operation: Operation) -> None:
        """
        Return if the key may be sent to where *operation* lives.

        Raises:
            OperationLostError: It lives at another server than the configured one.
        """
        if not same_origin(operation.endpoint, self.base_url):
            raise moved(operation, self.variable)

    def at_home(self, address: object) -> str | None:
        """*address* if it is one of the vendor's own without a query, else None."""
        if not address or not isinstance(address, str) or "?" in address or "#" in address:
            return None
        try:
            whole = joined(self.base_url, address)
            is_fit = is_storable_id(whole) and same_origin(whole, self.base_url)
        except ProtocolError:
            return None
        return whole if is_fit else None

    def refusal(
        self,
        answer: Answer,
        deed: Deed,
        said: Said,
        *,
        secrets: Iterable[str] = (),
        private: Iterable[str] = (),
    ) -> ProviderError:
        """
        The error of an *answer* that refuses the *deed*: of the kind that its words give away, else
        by its status.

        Args:
            said: Quoted from a submit only, where the *private* texts are known.
            secrets: Everything that must not come back.
        """
        code, words = word(said.code), cleaned(said.words)
        for secret in secrets:
            code = word(code, secret=secret)
            words = words.replace(secret, "…") if len(secret) >= MIN_SECRET_LENGTH else words
        shown = f" {code}" if code and code != str(answer.status) else ""
        quoted = scrubbed(words, private=private) if deed == "submit" else ""
        sentence = f"{self.label} refused the {deed} ({answer.status}{shown})"
        sentence = f"{sentence}: {quoted}" if quoted else f"{sentence}."
        if deed == "submit" and (answer.status in {404, 410} or said.kind is ModelRetiredError):
            sentence += f" {self.unknown_model}, or {self.variable} is wrong."
        hint_s = wait_hint(answer.headers)
        wait_s = said.wait_s if hint_s is None else hint_s
        if said.kind is None:
            return by_status(answer, deed, sentence, code=code, wait_s=wait_s)
        return said.kind(
            sentence,
            retry_after_s=wait_s if said.kind in _PASSING else None,
            provider_code=code,
            request_id=answer.request_id,
            http_status=answer.status,
        )

    def unavailable(self, answer: Answer, url: str) -> ProviderError | None:
        """
        The error of a download of *url* that was refused; None if it concerns the key, and so the
        vendor.
        """
        is_home = same_origin(url, self.base_url)
        if answer.status in _GONE or (answer.status == 401 and not is_home):
            return ResultExpiredError(
                f"The video's address at {self.label} has ended ({answer.status}).",
                http_status=answer.status,
            )
        return None

    def gone(self, answer: Answer, url: str) -> ProviderError | None:
        """The same of a vendor that keeps its results for good: see `answer.gone`."""
        return gone(answer, self.label, at_home=same_origin(url, self.base_url))

    def accepted(self, answer: Answer) -> SubmitUnknownError:
        """The error of a 2xx to a submit whose receipt nobody can read."""
        return SubmitUnknownError(
            f"{self.label} accepted the submit, but the answer names nothing to follow; it may be"
            " running.",
            http_status=answer.status,
            request_id=answer.request_id,
        )


def kind_by_words(said: str, status: int, deed: Deed) -> type[ProviderError] | None:
    """
    The class that only the words of a refusal give away; None if the status says it all.

    None of these vendors sends a code with a refusal.
    """
    lower = said.lower()
    if status not in {400, 402, 403, 422, 429}:
        return None
    # Runway: "You do not have enough credits to run this task." Luma: "Insufficient credits".
    if "credit" in lower and ("enough" in lower or "insufficient" in lower):
        return QuotaExhaustedError
    if status == 429:
        return None
    if "api key" in lower or "api token" in lower:
        return AuthError
    if any(term in lower for term in ("moderation", "moderated", "content policy", "flagged")):
        return ContentBlockedError
    return ModelRetiredError if deed == "submit" and "no longer available" in lower else None


def bearer(credential: Credential) -> dict[str, str]:
    """The header that opens the vendor; none for a server of one's own that wants no key."""
    return {"Authorization": f"Bearer {credential.secret}"} if credential.secret else {}


def versioned(base_url: str) -> str:
    """*base_url* with a version: the vendors' SDKs leave it out of their variables of this name."""
    return f"{base_url}/v1" if urlsplit(base_url).path in {"", "/"} else base_url


def usable_id(body: Mapping[str, Any], field: str) -> str:
    """
    The id that is the *field* of *body*, fit for an address and for PostgreSQL.

    Raises:
        ProtocolError: There is none.
    """
    found = body.get(field)
    text = "" if isinstance(found, bool) or not isinstance(found, str | int) else str(found)
    if not is_storable_id(text) or text in {".", ".."}:
        raise ProtocolError(f"The provider's answer has no usable {field}.")
    return text


def result_address(value: object, label: str) -> str:
    """
    The address of a result.

    Raises:
        ProtocolError: It is none of the web's.
    """
    address = cleaned(value)
    if not address.startswith(("https://", "http://")):
        raise ProtocolError(f"{label} calls the video finished, but names no address of it.")
    return address


def video_at(url: str) -> Asset:
    """The one asset that these vendors have."""
    return Asset(variant="video", uri=url, content_type="video/mp4")


def broken(label: str, code: str | None) -> GenerationFailedError:
    """How a generation ended that nobody is to blame for."""
    sentence = f"The generation failed at {label}{_shown(code)}"
    sentence += "." if code else ", which gives no code for it."
    return GenerationFailedError(sentence, provider_code=code)


def blocked(label: str, code: str | None) -> ContentBlockedError:
    """How a generation ended that the vendor's moderation has stopped."""
    return ContentBlockedError(
        f"{label}'s moderation blocked the video{_shown(code)}; change the prompt or the image.",
        provider_code=code,
    )


def rejected(label: str, code: str | None) -> InputRejectedError:
    """How a generation ended whose input was found wrong only then."""
    return InputRejectedError(
        f"{label} rejected the request after it had taken it on{_shown(code)}; check the prompt,"
        " the images and the parameters.",
        provider_code=code,
    )


def _shown(code: str | None) -> str:
    return f" (code {code})" if code else ""


def data_uri(image: ImageBytes, *, max_bytes: int | None = None, label: str = "") -> str:
    """
    *image* as text that stands for an address.

    Raises:
        InputRejectedError: That text would be longer than *label* takes.
    """
    text = f"data:{image.content_type};base64,{b64encode(image.data).decode()}"
    if max_bytes is not None and len(text) > max_bytes:
        raise InputRejectedError(
            f"The {image.role} image has {len(image.data)} bytes; {label} takes at most"
            f" {max_bytes * 3 // 4 // 1024} KiB within a request. Send a smaller file."
        )
    return text


def only_roles(submission: Submission, roles: tuple[str, ...], label: str) -> None:
    """
    Return if there is at most one image of each role, and of these *roles* only.

    Raises:
        InputRejectedError: Else.
    """
    seen = [image.role for image in submission.images]
    if any(role not in roles for role in seen) or len(set(seen)) < len(seen):
        allowed = " and one ".join(roles) or "no image"
        raise InputRejectedError(f"{label} takes at most one {allowed} image here.")


def filled(fields: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """*fields* without those that are None: an unset one is not sent."""
    return {name: value for name, value in fields.items() if value is not None}
