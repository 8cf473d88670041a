"""
What both of Google's interfaces share beside Veo: bearer tokens, and the shape of refusals.

google-auth refreshes tokens by blocking calls, so they run in a thread, one at a time for each
credential, early enough (225 s) that a token never ends on its way. What is remembered between two
calls is the token, never the credential it was given for.
"""

import asyncio
import hashlib
import re
from datetime import datetime
from typing import Any, Protocol

import google.auth
import google.auth.exceptions
import orjson
import requests
from google.auth.credentials import TokenState
from google.auth.transport.requests import Request
from google.oauth2.credentials import Credentials as UserCredentials
from google.oauth2.service_account import Credentials as ServiceCredentials

from vidgen.errors import (
    AuthError,
    ContentBlockedError,
    InputRejectedError,
    ModelRetiredError,
    ProviderError,
    QuotaExhaustedError,
    TransientError,
)
from vidgen.job import SERVER_CREDENTIAL
from vidgen.providers.answer import Answer, Deed, bounded_wait, by_status, scrubbed, wait_hint, word
from vidgen.providers.protocol import Credential

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
TOKEN_TIMEOUT_S = 30.0
MAX_REMEMBERED = 256
MAX_FAMILIES = 5

# docs.cloud.google.com, responsible AI: the codes name a family, and only that.
_FAMILIES = {
    "child": "58061214 17301594",
    "celebrity": "29310472 15236754",
    "video safety": "64151117 42237218",
    "dangerous content": "62263041",
    "hate": "57734940 22137204",
    "prohibited content": "89371032 49114662 63429089 72817394 60599140",
    "third-party content": "35561574 35561575",
    "sexual content": "90789179 43188360",
    "toxic content": "78610348",
    "violence": "61493863 56562880",
    "vulgar content": "32635315",
    "other": "74803281 29578790 42876398",
}
_FAMILY_OF = {code: family for family, codes in _FAMILIES.items() for code in codes.split()}
_SUPPORT_CODES = re.compile(r"support codes?:?\s*((?:[0-9]{6,10}[,;\s]*)+)", re.IGNORECASE)

# google-auth is only partly typed.
_DEFAULT: Any = google.auth.default
_FROM_FILE: Any = google.auth.load_credentials_from_file
_SERVICE: Any = ServiceCredentials
_USER: Any = UserCredentials


class _Refreshable(Protocol):
    """The part of google-auth's credentials that we use."""

    token: str | None
    expiry: datetime | None

    @property
    def token_state(self) -> TokenState: ...

    def refresh(self, request: Request) -> None: ...


class GoogleTokens:
    """Bearer tokens for credentials, remembered until shortly before they end."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._entries: dict[tuple[str, bytes], _Entry] = {}

    async def token(self, credential: Credential, *, rejected: str | None = None) -> str:
        """
        Get a token that is good for minutes; *rejected* is one that was just answered by 401.

        Raises:
            AuthError: The credential cannot be read, or Google does not accept it.
            TransientError: Google's token service could not be reached.
        """
        key = (credential.id, hashlib.sha256(credential.secret.encode()).digest())
        entry = self._entries.setdefault(key, _Entry())
        while len(self._entries) > MAX_REMEMBERED:
            self._entries.pop(next(iter(self._entries)))
        try:
            async with asyncio.timeout(TOKEN_TIMEOUT_S):
                return await entry.token(credential, rejected)
        except TimeoutError as error:
            raise TransientError("Google's token service gave no answer in time.") from error


class _Entry:
    """One token and its lock: a hundred polls at the same moment refresh it once."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._held: _Refreshable = _holding(None, None)

    async def token(self, credential: Credential, rejected: str | None) -> str:
        async with self._lock:
            try:
                self._held = await _fresh(self._held, credential.secret, rejected)
            except google.auth.exceptions.TransportError as error:
                raise TransientError("Google's token service could not be reached.") from error
            except google.auth.exceptions.GoogleAuthError as error:
                if error.retryable:
                    raise TransientError("Google's token service is not available.") from error
                is_ours = credential.id == SERVER_CREDENTIAL
                raise AuthError(
                    f"Google gives no token for this credential ({type(error).__name__})"
                    + ("; check GOOGLE_APPLICATION_CREDENTIALS." if is_ours else ".")
                ) from error
            except (ValueError, OSError) as error:
                raise AuthError(
                    f"The Google credential cannot be read ({type(error).__name__}); wanted the"
                    " path or the JSON of a service account."
                ) from None  # "no such file: …" would repeat a key that stands where a path belongs
        if self._held.token is None:
            raise AuthError("Google's token service gave no token for this credential.")
        return self._held.token


async def _fresh(held: _Refreshable, secret: str, rejected: str | None) -> _Refreshable:
    """*held* if its token is good for minutes, else one that holds a new token."""
    state = held.token_state
    if state is TokenState.FRESH and (rejected is None or held.token != rejected):
        return held
    try:
        return await asyncio.to_thread(_refreshed, secret)
    except google.auth.exceptions.TransportError:
        # Early enough: the one we have is good for a while yet.
        if state is not TokenState.STALE or rejected is not None:
            raise
    return held


def _refreshed(secret: str) -> _Refreshable:
    credentials = _load(secret)
    with requests.Session() as session:
        session.trust_env = False  # a proxy would see the assertion; .netrc would add a password
        credentials.refresh(Request(session))
    return _holding(credentials.token, credentials.expiry)


def _holding(token: str | None, expiry: datetime | None) -> _Refreshable:
    """A token and its end, as google-auth judges them, without what it was given for."""
    held: _Refreshable = _USER(token=token, expiry=expiry)
    return held


def _load(secret: str) -> _Refreshable:
    if not secret:
        found: _Refreshable = _DEFAULT(scopes=SCOPES)[0]
        return found
    given_as_path = not secret.lstrip().startswith("{")
    if given_as_path:
        with open(secret, "rb") as file:
            text = file.read()
    else:
        text = secret.encode()
    facts = orjson.loads(text)
    kind = facts.get("type") if isinstance(facts, dict) else None
    if kind == "service_account":
        found = _SERVICE.from_service_account_info(facts, scopes=SCOPES)
    elif kind == "authorized_user":
        found = _USER.from_authorized_user_info(facts, scopes=SCOPES)
    elif given_as_path:
        found = _FROM_FILE(secret, scopes=SCOPES)[0]
    else:
        # Other kinds may run programs or call addresses of their choice: only for files of ours.
        raise ValueError("kind")
    return found


def family(text: str) -> str | None:
    """The families of Google's support codes in *text*, e.g. `violence`; None without a code."""
    found = _SUPPORT_CODES.search(text)
    if found is None:
        return None
    codes = re.findall(r"\d+", found.group(1))
    families = dict.fromkeys(_FAMILY_OF.get(code, f"code {code}") for code in codes[:MAX_FAMILIES])
    return ", ".join(families)


def blocked(text: str, *, request_id: str | None = None) -> ContentBlockedError:
    """The error of a filtered video; *text* is what Google says about it."""
    found = family(text)
    return ContentBlockedError(
        f"Google's safety filters blocked the video{f' ({found})' if found else ''}; change the"
        " prompt or the images.",
        provider_code=found,
        request_id=request_id,
    )


def refusal(
    answer: Answer, deed: Deed, *, secret: str = "", private: tuple[str, ...] = ()
) -> ProviderError:
    """
    Map an answer of Google that is not 2xx to one class.

    What Google says is quoted from a submit only, where the *private* texts are known.
    """
    body = answer.lenient_json()
    if isinstance(body, list) and body:  # streaming endpoints wrap it
        body = body[0]
    error = body.get("error") if isinstance(body, dict) else None
    error = error if isinstance(error, dict) else {}
    message = str(error.get("message") or "")
    status = word(error.get("status"), secret=secret)
    details = [item for item in _items(error.get("details")) if isinstance(item, dict)]
    said = scrubbed(message, secret=secret, private=private) if deed == "submit" else ""
    sentence = f"Google refused the {deed} ({answer.status}{f' {status}' if status else ''})"
    sentence = f"{sentence}: {said}" if said else f"{sentence}."
    if deed == "submit" and answer.status in {404, 410}:
        sentence += " The model is switched off, or not open to this project and region."
    kind = _kind(answer, deed, message, details)
    if kind is None:
        wait_s = _retry_info(details) or wait_hint(answer.headers)
        return by_status(answer, deed, sentence, code=status, wait_s=wait_s)
    if kind is ContentBlockedError:
        return blocked(message, request_id=answer.request_id)
    return kind(sentence, provider_code=status, http_status=answer.status)


def _kind(
    answer: Answer, deed: Deed, message: str, details: list[dict[str, Any]]
) -> type[ProviderError] | None:
    """The class that only the text and the details give away; None if the status says it all."""
    lower = message.lower()
    reasons = {str(item.get("reason")) for item in details}
    if answer.status == 429:
        return QuotaExhaustedError if _is_over_for_today(lower, details) else None
    if answer.status == 400 and ("API_KEY_INVALID" in reasons or "api key not valid" in lower):
        return AuthError
    if deed != "submit" or answer.status not in {400, 404, 410}:
        return None
    if "no longer available" in lower:
        return ModelRetiredError
    if answer.status == 400 and family(message) is not None:
        return ContentBlockedError
    return InputRejectedError if answer.status == 400 else None


def _is_over_for_today(lower: str, details: list[dict[str, Any]]) -> bool:
    quotas = [
        str(violation.get("quotaId"))
        for item in details
        for violation in _items(item.get("violations"))
        if isinstance(violation, dict)
    ]
    if any("PerDay" in quota for quota in quotas):
        return True
    # "Check your plan and billing details" proves nothing: Google says so for a minute's limit too.
    return not quotas and ("spend" in lower or "credits" in lower)


def _retry_info(details: list[dict[str, Any]]) -> float | None:
    for item in details:
        delay = item.get("retryDelay")
        if isinstance(delay, str) and re.fullmatch(r"\d{1,9}(\.\d{1,9})?s", delay):
            return bounded_wait(float(delay[:-1]))
    return None


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
