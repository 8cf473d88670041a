"""Rows of PostgreSQL as the words of `vidgen.job`, and back."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import asyncpg
import orjson

from vidgen.job import (
    EventType,
    InputImage,
    JobEvent,
    JobStatus,
    JsonValue,
    Operation,
    Stage,
    VideoJob,
    VideoRequest,
)

_COLUMNS = frozenset(field.name for field in fields(VideoJob))


def job_of(row: asyncpg.Record) -> VideoJob:
    """The job in a row of `video_jobs`; columns that `VideoJob` does not have are left out."""
    values = {name: value for name, value in row.items() if name in _COLUMNS}
    operation = values["operation"]
    values |= {
        "status": JobStatus(values["status"]),
        "stage": Stage(values["stage"]),
        "operation": None if operation is None else Operation(**orjson.loads(operation)),
        "parameters": orjson.loads(values["parameters"]),
        "metadata": orjson.loads(values["metadata"]),
    }
    return VideoJob(**values)


def event_of(row: asyncpg.Record) -> JobEvent:
    """The event in a row of `job_events`."""
    return JobEvent(
        job_id=row["job_id"],
        seq=row["seq"],
        type=EventType(row["type"]),
        at=row["at"],
        status=JobStatus(row["status"]),
        stage=Stage(row["stage"]),
        attempt=row["attempt"],
        progress=row["progress"],
        detail=orjson.loads(row["detail"]),
        worker_id=row["worker_id"],
        by=row["by"],
    )


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
    """The request of a job, its images by reference; bytes are in `job_inputs`, by position."""
    values: dict[str, Any] = dict(job.parameters)
    images = tuple(InputImage(**image) for image in values.pop("images", ()))
    return VideoRequest(
        provider=job.provider, model=job.model, prompt=job.prompt, images=images, **values
    )
