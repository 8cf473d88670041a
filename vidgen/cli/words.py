"""What people type, as values of vidgen."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import orjson

from vidgen.errors import InvalidRequestError
from vidgen.image import MAX_IMAGE_BYTES
from vidgen.job import Fallback, ImageRole, InputImage, JsonValue

# As `store.deliveries` has them, which is too heavy for a help text.
DELIVERY_STATES = ("pending", "delivered", "failed", "gone")
DELIVERY_STATES_TOLD = "pending, delivered, failed or gone"

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def providers(begun: str) -> list[str]:
    """What a shell offers for a provider of which *begun* is typed."""
    from vidgen import catalog

    return [name for name in catalog.names() if name.startswith(begun)]


def models(begun: str) -> list[str]:
    """What a shell offers for a model of which *begun* is typed."""
    from vidgen import catalog

    return [model.name for model in catalog.models() if model.name.startswith(begun)]


def reasons(begun: str) -> list[str]:
    """What a shell offers for a reason to move on of which *begun* is typed."""
    from vidgen.job import REROUTES

    return [reason for reason in REROUTES if reason.startswith(begun)]


def fallback(text: str) -> Fallback:
    """`PROVIDER` or `PROVIDER/MODEL` as a fallback."""
    provider, _, model = text.partition("/")
    return Fallback(provider=provider, model=model or None)


def micros(option: str, text: str) -> int:
    """
    Dollars as micro-dollars.

    Raises:
        InvalidRequestError: It is no such number.
    """
    try:
        found = Decimal(text.removeprefix("$")) * 1_000_000
    except ArithmeticError:
        found = Decimal("nan")
    if not found.is_finite() or found % 1:
        raise InvalidRequestError(f"{option} came as {text!r:.60}; wanted dollars, as 1.50.")
    return int(found)


def delivery_states(begun: str) -> list[str]:
    """What a shell offers for the state of a delivery."""
    return [state for state in DELIVERY_STATES if state.startswith(begun)]


def codes(begun: str) -> list[str]:
    """What a shell offers for an error code of which *begun* is typed."""
    from vidgen import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    found = {kind.code for kind in kinds if issubclass(kind, errors.VidgenError)}
    found.discard(errors.VidgenError.code)
    return sorted(code for code in found if code.startswith(begun))


def moment(text: str, now: datetime, option: str = "--run-at") -> datetime:
    """
    A point in time: `2026-12-24T18:00:00Z`, or `+10m` from *now*. Without a zone it is UTC.

    Raises:
        InvalidRequestError: It is neither.
    """
    if match := re.fullmatch(r"\+(\d{1,6})([smhd])", text):
        return now + timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequestError(
            f"{option} came as {text!r}; wanted 2026-12-24T18:00:00Z or +10m (s, m, h, d)."
        ) from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def image(role: ImageRole, text: str) -> InputImage:
    """
    An input image: an http(s) address, `key:KEY` in the bucket of the results, or a file.

    Raises:
        InvalidRequestError: The file cannot be read, or is larger than any provider takes.
    """
    if text.startswith(("http://", "https://")):
        return InputImage(role=role, url=text)
    if text.startswith("key:"):
        return InputImage(role=role, key=text.removeprefix("key:"))
    try:
        with Path(text).open("rb") as file:
            # One more tells a file that is too big; the catalog says so.
            return InputImage(role=role, data=file.read(MAX_IMAGE_BYTES + 1))
    except OSError as error:
        raise InvalidRequestError(f"{text} cannot be read: {error.strerror}") from error
    except ValueError as error:  # a NUL in the name
        raise InvalidRequestError(f"{text!r} is no file name.") from error


def pairs(option: str, texts: Iterable[str], *, as_json: bool) -> dict[str, JsonValue]:
    """
    `KEY=VALUE` words as a dict; with *as_json* each value is JSON.

    Raises:
        InvalidRequestError: A word has no `=`, or its value is no JSON.
    """
    found: dict[str, JsonValue] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise InvalidRequestError(f"{option} came as {text!r}; wanted KEY=VALUE.")
        try:
            found[key] = orjson.loads(value) if as_json else value
        except orjson.JSONDecodeError as error:
            raise InvalidRequestError(
                f"{option} {key} is no JSON: {error}; text needs quotes, as in {key}='\"word\"'."
            ) from error
    return found
