"""A job and its events as JSON."""

import json
from dataclasses import fields
from datetime import UTC, datetime
from uuid import uuid4

from tests.builders import a_job
from vidgen.document import PRIVATE, SEALED, event_document, job_document
from vidgen.job import EventType, JobEvent, JobStatus, Operation, Stage, VideoJob


def test_a_document_has_every_field_by_its_name_and_nothing_private() -> None:
    document = job_document(a_job(prompt="a secret tram"))

    assert set(document) == {field.name for field in fields(VideoJob)} - PRIVATE - SEALED
    assert "secret" not in json.dumps(document)


def test_whoever_asks_for_one_job_is_told_what_is_private() -> None:
    document = job_document(a_job(prompt="a secret tram"), private=True)

    assert document["prompt"] == "a secret tram"


def test_a_prompt_that_does_not_open_is_null_and_its_envelope_is_told_to_nobody() -> None:
    document = job_document(a_job(prompt="", sealed=b"an envelope"), private=True)

    assert document["prompt"] is None
    assert "sealed" not in document


def test_times_ids_words_and_operations_are_plain_json() -> None:
    at = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
    operation = Operation(
        provider="sora", id="video_1", endpoint="https://x", model="sora-2", credential_id="server"
    )

    document = json.loads(json.dumps(job_document(a_job(created_at=at, operation=operation))))

    assert document["created_at"] == "2026-11-23T12:00:00.123Z"
    assert document["status"] == "processing"
    assert document["operation"]["id"] == "video_1"
    assert len(document["id"]) == 36


def test_an_event_is_told_with_its_detail() -> None:
    event = JobEvent(
        job_id=uuid4(),
        seq=7,
        type=EventType.ERRORED,
        at=datetime(2026, 11, 23, tzinfo=UTC),
        status=JobStatus.PROCESSING,
        stage=Stage.GENERATING,
        attempt=1,
        progress=30,
        detail={"code": "rate_limited", "wait_s": 2.5},
    )

    document = json.loads(json.dumps(event_document(event)))

    assert document["type"] == "errored"
    assert document["detail"] == {"code": "rate_limited", "wait_s": 2.5}
