"""
A job, its events and its webhooks as JSON: the same words for HTTP, webhooks and the command line.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, date, datetime
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID

from vidgen.job import JobEvent, JsonValue, VideoJob

if TYPE_CHECKING:  # it lives two floors above
    from vidgen.store.deliveries import Delivery

# A prompt is private: only who asks for one job is told, and what stands beside it.
PRIVATE = frozenset({"prompt", "parameters", "target_parameters", "webhook_url"})
# Told to nobody: what is in it stands in prompt and parameters once it is opened.
SEALED = frozenset({"sealed"})
# What a webhook tells is the job itself, as it was.
SNAPSHOT = frozenset({"snapshot"})
# How a formula may begin; users have a say in their names.
FORMULA = frozenset("=+-@\t\r")


def job_document(job: VideoJob, *, private: bool = False) -> dict[str, JsonValue]:
    """
    Every field of *job* by its name: times as ISO 8601 with Z, money in micro-dollars.

    Args:
        private: With prompt, parameters and webhook address; a prompt that does not open is null.
    """
    hidden = SEALED if private else SEALED | PRIVATE
    document = {
        field.name: json_value(getattr(job, field.name))
        for field in fields(job)
        if field.name not in hidden
    }
    return document | {"prompt": None} if private and job.sealed is not None else document


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
        case date():
            return value.isoformat()
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


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """CSV with a header; what a spreadsheet would take for a formula is told as text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"'{cell}" if cell[:1] in FORMULA else cell for cell in row] for row in rows)
    return text.getvalue()


def iso(at: datetime) -> str:
    """*at* to the millisecond, in UTC."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
