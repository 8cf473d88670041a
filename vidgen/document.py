"""
A job, its events and its webhooks as JSON: the same words for HTTP, webhooks and the command line.
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID

from vidgen.job import JobEvent, JsonValue, VideoJob

if TYPE_CHECKING:  # it lives two floors above
    from vidgen.store.deliveries import Delivery

# A prompt is private: only who asks for one job is told, and what stands beside it.
PRIVATE = frozenset({"prompt", "parameters", "webhook_url"})
# What a webhook tells is the job itself, as it was.
SNAPSHOT = frozenset({"snapshot"})


def job_document(job: VideoJob, *, private: bool = False) -> dict[str, JsonValue]:
    """
    Every field of *job* by its name: times as ISO 8601 with Z, money in micro-dollars.

    Args:
        private: With prompt, parameters and webhook address.
    """
    return {
        field.name: json_value(getattr(job, field.name))
        for field in fields(job)
        if private or field.name not in PRIVATE
    }


def event_document(event: JobEvent) -> dict[str, JsonValue]:
    """Every field of *event* by its name."""
    return {field.name: json_value(getattr(event, field.name)) for field in fields(event)}


def delivery_document(delivery: "Delivery", *, whole: bool) -> dict[str, JsonValue]:
    """
    Every field of *delivery* by its name, but not what it tells.

    Args:
        whole: With the query of its address, which may be what opens the receiver.
    """
    told = {
        field.name: json_value(getattr(delivery, field.name))
        for field in fields(delivery)
        if field.name not in SNAPSHOT
    }
    return told if whole else told | {"url": without_query(delivery.url)}


def without_query(url: str) -> str:
    """*url* up to its question mark."""
    return url.partition("?")[0]


def json_value(value: object) -> JsonValue:
    """*value* in the words of JSON."""
    match value:
        case None | bool() | int() | float():
            return value
        case datetime():
            return iso(value)
        case Enum():
            return json_value(value.value)
        case str():
            return value
        case UUID():
            return str(value)
        case Mapping():
            return {str(name): json_value(item) for name, item in value.items()}
        case list() | tuple():
            return [json_value(item) for item in value]
        case _:
            return json_value(asdict(value))  # type: ignore[call-overload]  # only values of `vidgen.job` are left


def iso(at: datetime) -> str:
    """*at* to the millisecond, in UTC."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
