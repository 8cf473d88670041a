"""Values for tests that show only what matters to them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from vidgen.job import JobStatus, Operation, Stage, Target, VideoJob
from vidgen.lifecycle import StoredVideo
from vidgen.store.jobs import NewJob
from vidgen.store.workers import Worker

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
WORKER = UUID(int=1)


def an_operation(name: str = "video_1") -> Operation:
    return Operation(
        provider="sora",
        id=name,
        endpoint="https://sora.test/v1",
        model="sora-2",
        credential_id="server",
    )


def a_video(**changes: Any) -> StoredVideo:
    video = StoredVideo(
        storage_key="videos/1/1.mp4",
        size_bytes=1_000_000,
        sha256="ab" * 32,
        content_type="video/mp4",
        duration_s=8.0,
        width=1280,
        height=720,
        thumbnail_key=None,
        spritesheet_key=None,
    )
    return replace(video, **changes)


def targets(*prices: int | None) -> dict[str, Any]:
    """Fields of a job with a target for each price: sora and then veo, and so on."""
    names = [("sora", "sora-2", "openai"), ("veo", "veo-3.1-generate-001", "vertex")] * len(prices)
    made = [
        Target(provider=provider, model=model, api=api, estimated_cost_micros=price)
        for (provider, model, api), price in zip(names, prices, strict=False)
    ]
    parameters = [{"seconds": 8}, *({"seconds": 8, "of": n} for n in range(1, len(made)))]
    return {"targets": tuple(made), "target_parameters": tuple(parameters)}


def a_job(stage: Stage = Stage.QUEUED, **changes: Any) -> VideoJob:
    """A job that a worker holds in *stage*; with `worker_id=None` one that waits there."""
    begun = stage is not Stage.QUEUED
    accepted = stage in {Stage.GENERATING, Stage.TRANSFERRING}
    values: dict[str, Any] = {
        "id": UUID(int=42),
        "status": JobStatus.PROCESSING,
        "stage": stage,
        "provider": "sora",
        "model": "sora-2",
        "prompt": "a tram in the rain",
        "parameters": {"seconds": 8},
        "attempt": int(begun),
        "max_attempts": 3,
        "failures": 0,
        "operation": an_operation() if accepted else None,
        "progress": 0,
        "priority": 0,
        "lease_epoch": 1,
        "worker_id": WORKER,
        "created_at": NOON,
        "started_at": NOON,
        "intent_at": NOON if begun else None,
        "submitted_at": NOON if accepted else None,
        "generated_at": NOON if stage is Stage.TRANSFERRING else None,
        "deadline_s": 1800,
        "cancel_discards": False,
        "metadata": {},
        "unknown_attempts": 0,
        "lost_cost_micros": 0,
        "discards": 0,
        "targets": (),
        "target_parameters": (),
        "target": 0,
        "reroute_on": (),
    }
    empty = dict.fromkeys(VideoJob.__dataclass_fields__)
    return VideoJob(**{**empty, **values, **changes})


def a_new_job(**changes: Any) -> NewJob:
    values: dict[str, Any] = {
        "id": uuid7(),
        "provider": "sora",
        "model": "sora-2",
        "prompt": "a tram in the rain",
        "parameters": {"seconds": 8, "images": [], "extra": {}},
        "fingerprint": "f" * 64,
        "priority": 0,
        "max_attempts": 3,
        "deadline_s": 1800,
        "estimated_cost_micros": 800_000,
        "allow_unknown_price": False,
        "metadata": {},
        "targets": (),
        "target_parameters": (),
        "reroute_on": (),
    }
    empty = dict.fromkeys(NewJob.__dataclass_fields__)
    return NewJob(**{**empty, **values, **changes})


def a_worker(number: int = 1) -> Worker:
    return Worker(id=UUID(int=number), hostname="h", pid=number, version="0", concurrency=2)
