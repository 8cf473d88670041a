"""Rows of PostgreSQL as the words of `vidgen.job`, and back."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from vidgen.errors import InvalidRequestError
from vidgen.job import (
    EventType,
    InputImage,
    JobEvent,
    JobStatus,
    JsonValue,
    Operation,
    RerouteReason,
    Stage,
    Target,
    VideoJob,
    VideoRequest,
    seconds_of,
)

_COLUMNS = tuple(field.name for field in fields(VideoJob))
_TARGET = frozenset(field.name for field in fields(Target))
_OPERATION = frozenset(field.name for field in fields(Operation))


def job_of(row: asyncpg.Record) -> VideoJob:
    """
    The job in a row of `video_jobs`, whoever wrote it: columns and fields of a newer release are
    left out, its states stay as they are, and an operation that nobody can read is None.

    One bad row must not keep the others of a list from being seen to. It fails by itself, in the
    stage that needs the operation; the column keeps what it has.
    """
    # By our names, not by the row's: a call with 59 keywords that are not the very strings of its
    # parameters compares each with all of them; measured, 37 µs of the 60 that a row took.
    values = {name: row[name] for name in _COLUMNS}
    operation = values["operation"]
    values |= {
        "status": JobStatus.read(values["status"]),
        "stage": Stage.read(values["stage"]),
        "operation": None if operation is None else _operation_or_none(operation),
        "parameters": orjson.loads(values["parameters"]),
        "metadata": orjson.loads(values["metadata"]),
        "targets": tuple(target_of(each) for each in orjson.loads(values["targets"])),
        "target_parameters": tuple(orjson.loads(values["target_parameters"])),
        "reroute_on": tuple(map(RerouteReason.read, orjson.loads(values["reroute_on"]))),
    }
    return VideoJob(**values)


def target_of(value: Mapping[str, Any]) -> Target:
    """The target in *value*, JSON of ours; fields of a newer release are left out."""
    known = {name: found for name, found in value.items() if name in _TARGET}
    return Target(**known | {"mapped": tuple(known.get("mapped", ()))})


def event_of(row: asyncpg.Record) -> JobEvent:
    """The event in a row of `job_events`."""
    return JobEvent(
        job_id=row["job_id"],
        seq=row["seq"],
        type=EventType(row["type"]),
        at=row["at"],
        status=JobStatus.read(row["status"]),
        stage=Stage.read(row["stage"]),
        attempt=row["attempt"],
        progress=row["progress"],
        detail=orjson.loads(row["detail"]),
        worker_id=row["worker_id"],
        by=row["by"],
    )


def operation_of(value: object) -> Operation:
    """
    The operation in *value*, JSON that somebody wrote; fields that we do not know are left out.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(value, dict):
        raise ValueError("an operation is an object")  # noqa: TRY004  one kind of error for readers
    known = {name: found for name, found in value.items() if name in _OPERATION}
    extra = known.pop("extra", {})
    if not isinstance(extra, dict) or not all(isinstance(text, str) for text in known.values()):
        raise ValueError("an operation has texts, and an object of more")
    if missing := _OPERATION - {"extra"} - known.keys():
        raise ValueError(f"an operation has {', '.join(sorted(missing))}")
    return Operation(**known, extra=extra)


def _operation_or_none(text: str) -> Operation | None:
    try:
        return operation_of(orjson.loads(text))
    except ValueError:
        return None


def json_of(value: Mapping[str, JsonValue]) -> str:
    """*value* as the text of a jsonb parameter."""
    return orjson.dumps(dict(value)).decode()


def parameters_of(request: VideoRequest) -> dict[str, JsonValue]:
    """
    What the column `parameters` keeps of a request: all but provider, model, prompt and image
    bytes.
    """
    return {
        "seconds": request.seconds,
        "size": request.size,
        "aspect_ratio": request.aspect_ratio,
        "resolution": request.resolution,
        "negative_prompt": request.negative_prompt,
        "seed": request.seed,
        "audio": request.audio,
        "images": [
            {"role": image.role, "url": image.url, "key": image.key} for image in request.images
        ],
        "extra": dict(request.extra),
    }


def request_of(job: VideoJob) -> VideoRequest:
    """
    The request of a job, its images by reference; bytes are in `job_inputs`, by position.

    Raises:
        InvalidRequestError: It asks for something that only a newer release knows.
    """
    values: dict[str, Any] = dict(job.parameters)
    images = tuple(InputImage(**_known(InputImage, image)) for image in values.pop("images", ()))
    return VideoRequest(
        provider=job.provider,
        model=job.model,
        prompt=job.prompt,
        images=images,
        **_known(VideoRequest, values),
    )


def _known(kind: type[InputImage | VideoRequest], values: Mapping[str, Any]) -> dict[str, Any]:
    """
    What *kind* has of *values*. A newer release writes its own fields with every request, mostly
    empty; one that is not empty must not be left out of what is paid for.
    """
    ours = {field.name for field in fields(kind)}
    if more := [name for name, value in values.items() if name not in ours and value]:
        raise InvalidRequestError(
            f"This worker is too old for {', '.join(sorted(more))}; retry once all are replaced."
        )
    return {name: value for name, value in values.items() if name in ours}


@dataclass(frozen=True, slots=True, kw_only=True)
class DueJob:
    """
    A job that waits for a dispatch.

    Attributes:
        seconds: Of video that it asks for.
        ahead: It is paid for, or has a turn to submit.
    """

    id: UUID
    lease_epoch: int
    priority: int
    due_at: datetime
    user_id: str | None
    seconds: int
    ahead: bool


def due_job_of(row: asyncpg.Record) -> DueJob:
    """The job in a row of its columns, with `seconds` as JSON."""
    seconds = seconds_of({"seconds": orjson.loads(row["seconds"] or b"null")})
    return DueJob(**{**row, "seconds": seconds})
