"""Images that came with a request."""

from tests.builders import WORKER
from tests.store.conftest import applied, completed, held, inserted
from vidgen import lifecycle
from vidgen.errors import InternalError
from vidgen.job import VideoJob
from vidgen.store import inputs
from vidgen.store.inputs import StoredInput
from vidgen.store.pool import Connection


def an_input(job: VideoJob, position: int = 0, data: bytes = b"\x89PNG\x00") -> StoredInput:
    return StoredInput(job_id=job.id, position=position, content_type="image/png", data=data)


async def test_images_are_found_by_their_position(connection: Connection) -> None:
    job, other = await inserted(connection), await inserted(connection)
    stored = [an_input(job, 0), an_input(job, 2, b"\xff\xd8" * 100_000)]

    await inputs.insert(connection, [*stored, an_input(other)])

    assert await inputs.of_job(connection, job.id) == {0: stored[0], 2: stored[1]}


async def test_a_job_without_images_has_none(connection: Connection) -> None:
    job = await inserted(connection)

    assert await inputs.of_job(connection, job.id) == {}


async def test_images_are_forgotten_when_the_video_is_there_and_kept_for_a_retry(
    connection: Connection,
) -> None:
    done, waiting, broken = (
        await completed(connection),
        await inserted(connection),
        await held(connection),
    )
    await applied(connection, broken, lifecycle.failed(broken, InternalError("a defect")))
    await inputs.insert(connection, [an_input(job) for job in (done, waiting, broken)])

    deleted = await inputs.delete_of_ended(connection)

    assert deleted == 1
    assert await inputs.of_job(connection, done.id) == {}
    assert len(await inputs.of_job(connection, waiting.id)) == 1
    assert len(await inputs.of_job(connection, broken.id)) == 1


def test_the_bytes_of_an_image_are_not_in_its_repr() -> None:
    image = StoredInput(job_id=WORKER, position=0, content_type="image/png", data=b"secret")

    assert "secret" not in repr(image)
